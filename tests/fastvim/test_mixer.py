"""The mixer by itself; the oracle and the golden cases test it inside models."""

import copy

import torch

from fastvim.encoder import Encoder
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


def test_blocks_below_trained_ones_stay_out_of_the_backward_pass():
    torch.manual_seed(0)
    encoder = Encoder(16, 3, image_cycle(rotate=True)).requires_grad_(False)
    encoder[2].requires_grad_(True)
    states = encoder.states(torch.randn(1, 2, 3, 16), [0, 1, 2])
    assert [hidden.requires_grad for hidden, _ in states] == [False, False, True]
    states[2][0].sum().backward()
    assert encoder[2].mixer.A_log.grad is not None
    assert encoder[1].mixer.A_log.grad is None


def test_freezing_takes_the_present_parameters():
    torch.manual_seed(0)
    encoder = Encoder(16, 2, image_cycle(rotate=True)).requires_grad_(False)
    tokens, norm = torch.randn(1, 2, 3, 16), torch.nn.RMSNorm(16)
    encoder[0].mixer.freeze(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        encoder[0].mixer.freeze(torch.float32)
    want = copy.deepcopy(encoder)
    want[0].mixer._frozen = None
    torch.testing.assert_close(encoder(tokens, norm), want(tokens, norm), rtol=0, atol=0)
