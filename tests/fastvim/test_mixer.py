"""The mixer by itself; the oracle and the golden cases test it inside models."""

import torch

from fastvim.mixer import Mixer, _aligned, join_directions
from fastvim.traversal import KeptTokens, image_cycle


def test_small_layer_scales_survive_float16():
    torch.manual_seed(0)
    mixer = Mixer(16, image_cycle(rotate=False)[0], layer_scale=1e-6)
    tokens = torch.randn(1, 3, 4, 16)
    with torch.no_grad():
        exact = mixer(mixer.in_proj(tokens))
        with torch.autocast("cpu", torch.float16):
            half = mixer(mixer.in_proj(tokens))
    assert (half - exact).norm() / exact.norm() < 1e-2


def test_kept_tokens_in_float64():
    torch.manual_seed(0)
    mixer = Mixer(8, image_cycle(rotate=True)[1])
    kept = KeptTokens(torch.tensor([[0, 2, 5], [1, 3, 4]]), (2, 3))
    walk, projected = kept.along(mixer.traversal), torch.randn(2, 3, 32)
    exact = mixer.double()(projected.double(), walk)
    assert exact.dtype == torch.float64
    torch.testing.assert_close(mixer.float()(projected, walk), exact.float())


def test_a_filled_up_rank_changes_nothing():
    """On a GPU a rank that is no multiple of eight is filled up; parameters keep their shapes."""
    torch.manual_seed(0)
    mixer = Mixer(48, image_cycle(rotate=False)[0]).double()
    projected = torch.randn(2, 3, 4, 192, dtype=torch.float64)
    own = [v for name, v in mixer.named_parameters() if not name.startswith("in_proj")]

    def results(both):
        out = mixer(projected, both=both)
        return [out, *torch.autograd.grad(out.square().sum(), own)]

    (plain,) = join_directions([mixer])
    filled = _aligned(join_directions([mixer])[0])
    assert (filled.x_proj.shape[1], filled.dt_proj.shape[2]) == (8 + 32, 8)
    torch.testing.assert_close(results(filled), results(plain))
