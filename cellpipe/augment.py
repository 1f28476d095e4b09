"""Augmentation of crops after the published JUMP-CP recipe, on whole batches and any device.

Every draw comes from the generator that is passed in, so that a resumed run repeats it.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """What is done to each crop; zero switches a part off.

    shift_px
        Largest random translation along y and x; the recipe's padding to 256 and random 224 crop
        is a shift of 16.
    defocus_px
        Largest radius of the disc that blurs half of the batch.
    holes, hole_px
        Up to this many squares of this side are set to zero, the channel's mean.
    """

    shift_px: int = 0
    defocus_px: int = 0
    holes: int = 0
    hole_px: int = 10

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Augment normalised crops (batch, channel, y, x); returns the same shape."""
        x = _turn_and_flip(x, generator)
        if self.shift_px:
            x = _shift(x, self.shift_px, generator)
        if self.defocus_px:
            x = _defocus(x, self.defocus_px, generator)
        if self.holes:
            x = _drop_holes(x, self.holes, self.hole_px, generator)
        return x


def _randint(low: int, high: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randint(low, high, shape, generator=generator)


def _turn_and_flip(x: Tensor, generator: torch.Generator) -> Tensor:
    """Leave each crop as it is or apply one of the other seven symmetries of the square."""
    symmetry = _randint(0, 8, (len(x),), generator)
    out = torch.empty_like(x)
    for kind in range(8):
        chosen = (symmetry == kind).to(x.device)
        turned = torch.rot90(x[chosen], kind % 4, dims=(-2, -1))
        out[chosen] = turned.flip(-1) if kind >= 4 else turned
    return out


def _shift(x: Tensor, largest: int, generator: torch.Generator) -> Tensor:
    batch, _, height, width = x.shape
    dy, dx = _randint(0, 2 * largest + 1, (2, batch), generator).to(x.device)
    padded = F.pad(x, (largest,) * 4)
    rows = dy[:, None] + torch.arange(height, device=x.device)  # (batch, height)
    columns = dx[:, None] + torch.arange(width, device=x.device)  # (batch, width)
    index = torch.arange(batch, device=x.device)[:, None, None]
    shifted = padded[index, :, rows[:, :, None], columns[:, None, :]]  # (batch, y, x, channel)
    return shifted.movedim(-1, 1)


def _defocus(x: Tensor, largest: int, generator: torch.Generator) -> Tensor:
    radius = _randint(1, largest + 1, (len(x),), generator)
    radius[_randint(0, 2, (len(x),), generator) == 0] = 0
    out = x.clone()
    for r in range(1, largest + 1):
        chosen = (radius == r).to(x.device)
        span = torch.arange(-r, r + 1, device=x.device)
        disc = (span[:, None] ** 2 + span**2 <= r * r).to(x.dtype)
        picked = x[chosen]
        count, channels, height, width = picked.shape
        planes = F.pad(picked.reshape(count * channels, 1, height, width), (r,) * 4, "replicate")
        blurred = F.conv2d(planes, (disc / disc.sum())[None, None])
        out[chosen] = blurred.reshape(picked.shape)
    return out


def _drop_holes(x: Tensor, holes: int, side: int, generator: torch.Generator) -> Tensor:
    batch, _, height, width = x.shape
    keep = torch.ones(batch, 1, height, width, dtype=torch.bool, device=x.device)
    number = _randint(0, holes + 1, (batch,), generator)
    top = _randint(0, height, (batch, holes), generator)
    left = _randint(0, width, (batch, holes), generator)
    y, x_ = torch.arange(height), torch.arange(width)
    for hole in range(holes):
        in_rows = (y >= top[:, hole, None]) & (y < top[:, hole, None] + side)
        in_columns = (x_ >= left[:, hole, None]) & (x_ < left[:, hole, None] + side)
        cut = in_rows[:, :, None] & in_columns[:, None, :] & (hole < number)[:, None, None]
        keep &= ~cut[:, None].to(x.device)
    return x * keep
