"""What FastChannelVim's API promises; its numbers are compared in `test_oracle`."""

import itertools

import numpy as np
import pytest
import torch

from fastvim import FastChannelVim
from fastvim.channel_model import draw_channels


def small(**options):
    defaults = {"img_size": (12, 8), "patch_size": 4, "in_chans": 4, "num_classes": 5}
    torch.manual_seed(0)
    model = FastChannelVim(**{**defaults, "embed_dim": 20, "depth": 3, **options}).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # so that nothing is hidden by a zero or a one
            parameter += 0.3 * torch.randn_like(parameter)
    return model


def images(batch=2, channels=4, height=12, width=8):
    torch.manual_seed(1)
    return torch.randn(batch, channels, height, width)


@torch.no_grad()
def test_subset_is_the_model_on_these_channels_alone():
    model, batch = small(), images()
    alone = small(in_chans=2)
    weights = model.state_dict()
    weights["patch_embed.channel_embed.weight"] = weights["patch_embed.channel_embed.weight"][
        [1, 3]
    ]
    alone.load_state_dict(weights)
    subset = model(batch[:, [1, 3]], torch.tensor([1, 3]))
    torch.testing.assert_close(subset, alone(batch[:, [1, 3]]))
    assert (subset - model(batch[:, [1, 3]], [0, 1])).abs().max() > 1e-3


@torch.no_grad()
def test_embed():
    model, batch = small(), images(channels=3)
    pooled, per_channel = model.embed(batch, [0, 2, 3])
    features = model.forward_features(batch, [0, 2, 3])
    assert features.shape == (2, 3, 3, 2, 20)
    assert (pooled.shape, per_channel.shape) == ((2, 20), (2, 3, 20))
    torch.testing.assert_close(per_channel, features.mean((2, 3)))
    torch.testing.assert_close(pooled, per_channel.mean(1))
    torch.testing.assert_close(model.head(pooled), model(batch, [0, 2, 3]))


@torch.no_grad()
@pytest.mark.parametrize("size", [(12, 8), (4, 4), (20, 36), (13, 6), (1, 50)])
def test_any_image_size(size):
    model = small()
    features = model.forward_features(images(1, 4, *size))
    assert features.shape == (1, 4, -(-size[0] // 4), -(-size[1] // 4), 20)
    assert features.isfinite().all()


@torch.no_grad()
def test_partial_patches_are_zeros():
    model, batch = small(), images(height=10, width=7)
    padded = torch.zeros(2, 4, 12, 8)
    padded[:, :, :10, :7] = batch
    torch.testing.assert_close(model(batch), model(padded))


@torch.no_grad()
def test_samples_do_not_mix():
    model, batch = small(), images(batch=3)
    torch.testing.assert_close(model(batch)[1:2], model(batch[1:2]))


def test_channel_sampling_only_in_training():
    model, batch = small(), images()
    with torch.no_grad():
        assert torch.equal(model(batch), model(batch))
        model.train()
        torch.manual_seed(3)
        sampled = model(batch)
        torch.manual_seed(3)
        drawn = draw_channels(4)
        assert len(drawn) < 4
        torch.testing.assert_close(sampled, model.eval()(batch[:, drawn], drawn))
        fixed = small(hcs=False).train()
        assert torch.equal(fixed(batch), fixed(batch))


def test_draw_channels_is_uniform_in_count_and_sorted():
    torch.manual_seed(0)
    draws = [draw_channels(4).tolist() for _ in range(2000)]
    assert all(draw == sorted(set(draw)) for draw in draws)
    counts = np.bincount([len(draw) for draw in draws], minlength=5)
    assert counts[0] == 0
    assert np.all(np.abs(counts[1:] - 500) < 100)
    seen = np.bincount(list(itertools.chain(*draws)), minlength=4)
    assert np.ptp(seen) < 150


def test_drop_path_scales_kept_samples_in_training_only():
    model, batch = small(depth=1, drop_path_rate=0.5, hcs=False), images(batch=64)
    with torch.no_grad():
        whole = model(batch)
        torch.testing.assert_close(whole, small(depth=1)(batch))
        torch.manual_seed(0)
        changed = (model.train()(batch) - whole).abs().amax(1) > 1e-4
    assert changed.all()  # a kept sample's block counts twice, a dropped one's not at all


def test_bfloat16_autocast_is_near_float32():
    model, batch = small(), images()
    with torch.autocast("cpu", torch.bfloat16):
        half = model(batch)
        half.float().square().mean().backward()
    truth = model(batch)
    assert (half - truth).abs().max() < 0.05 * truth.abs().max()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_initialisation_treats_both_directions_alike():
    torch.manual_seed(0)
    model = FastChannelVim(img_size=16, patch_size=8, embed_dim=64, depth=4)
    mixer = model.layers[1].mixer
    for projection in (mixer.dt_proj, mixer.dt_proj_b):
        step = torch.nn.functional.softplus(projection.bias)
        assert step.min() > 0.99e-3
        assert step.max() < 1.01e-1
        assert step.log().std() > 1  # log-uniform over two decades
    for a_log in (mixer.A_log, mixer.A_b_log):
        torch.testing.assert_close(a_log[5].exp(), torch.arange(1.0, 17.0))
    bound = (1 / 128) ** 0.5 / 2  # Kaiming's for fan-in 128, halved for four blocks
    assert 0.95 * bound < mixer.out_proj.weight.abs().max() <= bound
    assert model.patch_embed.proj.weight.std().item() == pytest.approx(1 / 8, rel=0.1)
    assert not model.patch_embed.proj.bias.any()


@pytest.mark.parametrize(
    ("shape", "channels", "error", "message"),
    [
        ((1, 3, 12, 8), None, ValueError, r"4 channels.*\[0, 1, 2, 3\].*got \(1, 3, 12, 8\)"),
        ((1, 3, 12, 8), [0, 1], ValueError, r"2 channels.*\[0, 1\].*got \(1, 3, 12, 8\)"),
        ((3, 12, 8), [0, 1, 2], ValueError, "batch, channel, height, width"),
        ((1, 2, 12, 8), [0, 4], IndexError, r"0\.\.3, got \[0, 4\]"),
        ((1, 2, 12, 8), [0, -1], IndexError, r"0\.\.3, got \[0, -1\]"),
        ((1, 0, 12, 8), [], IndexError, r"at least one .* got \[\]"),
    ],
)
def test_channel_errors(shape, channels, error, message):
    with pytest.raises(error, match=message):
        small()(torch.zeros(shape), channels)


def test_option_errors():
    with pytest.raises(ValueError, match=r"scan_order: expected one of .* got 'rowwise'"):
        small(scan_order="rowwise")
    with pytest.raises(ValueError, match=r"collapse_method: expected .* got 'sum'"):
        small(collapse_method="sum")
