"""Augmentations change what they should and nothing else."""

import pytest
import torch

from cellpipe.augment import Augmentation


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_symmetries_keep_the_values_and_all_occur():
    corner = torch.zeros(64, 1, 8, 8)
    corner[:, 0, 0, 1] = 1.0
    turned = Augmentation()(corner, generator())
    assert torch.equal(turned.sum(dim=(1, 2, 3)), torch.ones(64))
    assert len({tuple(p.tolist()) for p in turned[:, 0].flatten(1).argmax(1)[:, None]}) == 8


def test_channels_move_together():
    x = torch.randn(16, 1, 12, 12).repeat(1, 3, 1, 1)
    out = Augmentation(shift_px=3, defocus_px=2, holes=3, hole_px=4)(x, generator())
    torch.testing.assert_close(out[:, 0], out[:, 1])
    torch.testing.assert_close(out[:, 0], out[:, 2])


def test_shift_moves_by_at_most_the_largest():
    x = torch.zeros(200, 1, 21, 21)
    x[:, 0, 10, 10] = 1.0
    where = Augmentation(shift_px=4)(x, generator())[:, 0].flatten(1).argmax(1)
    y, x_ = where // 21 - 10, where % 21 - 10
    assert int(y.abs().max()) == 4
    assert int(x_.abs().max()) == 4


def test_defocus_keeps_the_mean_and_lowers_the_variance():
    x = torch.randn(64, 2, 32, 32)
    out = Augmentation(defocus_px=3)(x, generator())
    blurred = out.var(dim=(1, 2, 3)) < 0.5 * x.var(dim=(1, 2, 3))
    assert 10 < int(blurred.sum()) < 54
    torch.testing.assert_close(out.mean(), x.mean(), atol=0.01, rtol=0)


def test_holes_are_zero_and_limited():
    out = Augmentation(holes=2, hole_px=5)(torch.ones(100, 2, 32, 32), generator())
    zeros = (out[:, 0] == 0).flatten(1).sum(1)
    assert int(zeros.max()) <= 50
    assert int(zeros.max()) > 25
    assert int((zeros == 0).sum()) > 10


@pytest.mark.parametrize("seed", [0, 1])
def test_a_generator_repeats(seed):
    x = torch.randn(8, 2, 16, 16)
    augmentation = Augmentation(shift_px=2, defocus_px=2, holes=2, hole_px=3)
    torch.testing.assert_close(
        augmentation(x, generator(seed)), augmentation(x, generator(seed)), atol=0, rtol=0
    )
