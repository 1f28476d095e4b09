"""The mixer by itself; the oracle and the golden cases test it inside models."""

import torch

from fastvim.mixer import Mixer
from fastvim.traversal import KeptTokens, image_cycle


def test_small_layer_scales_survive_float16():
    torch.manual_seed(0)
    mixer = Mixer(16, image_cycle(rotate=False)[0], layer_scale=1e-6)
    tokens = torch.randn(1, 3, 4, 16)
    with torch.no_grad():
        exact = mixer(tokens)
        with torch.autocast("cpu", torch.float16):
            half = mixer(tokens)
    assert (half - exact).norm() / exact.norm() < 1e-2


def test_kept_tokens_in_float64():
    torch.manual_seed(0)
    mixer = Mixer(8, image_cycle(rotate=True)[1])
    kept = KeptTokens(torch.tensor([[0, 2, 5], [1, 3, 4]]), (2, 3))
    tokens = torch.randn(2, 3, 8)
    exact = mixer.double()(tokens.double(), kept)
    assert exact.dtype == torch.float64
    torch.testing.assert_close(mixer.float()(tokens, kept), exact.float())
