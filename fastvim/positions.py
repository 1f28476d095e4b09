"""Positions of tokens: learned or sin-cos, for grids of any size."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def new_positions(count: int, dim: int) -> nn.Parameter:
    """Learned positions, (1, count, dim)."""
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(1, count, dim), std=0.02))


def sincos_positions(grid: tuple[int, int], dim: int, *, class_token: bool) -> nn.Parameter:
    """Fixed positions (MAE), (1, row * column, dim), after a zero row for a class token.

    The first half of each vector encodes the column and the second half the row, each as sines and
    then cosines of wavelengths from 2 pi to 20000 pi.
    """
    if dim % 4:
        raise ValueError(f"sin-cos positions: expected a width that 4 divides, got {dim}")
    rates = 10000.0 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    rows, columns = (torch.arange(side, dtype=torch.float64) for side in grid)
    row, column = torch.meshgrid(rows, columns, indexing="ij")
    angles = (axis.flatten().outer(rates) for axis in (column, row))
    encoded = torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1)
    if class_token:
        encoded = torch.cat([encoded.new_zeros(1, dim), encoded])
    return nn.Parameter(encoded.float().unsqueeze(0), requires_grad=False)


def resize_positions(
    positions: Tensor, trained: tuple[int, int], wanted: tuple[int, int]
) -> Tensor:
    """Positions (1, row * column, dim) of the trained grid, bicubic on the wanted one.

    Returns (1, row, column, dim).
    """
    grid = positions.unflatten(1, trained)
    if trained != tuple(wanted):
        resized = F.interpolate(grid.permute(0, 3, 1, 2).float(), wanted, mode="bicubic")
        grid = resized.permute(0, 2, 3, 1).to(positions.dtype)
    return grid


def class_place(where: str, tokens: int) -> int:
    """Place of the class token before one of `tokens` patch tokens: in their middle, or first."""
    return tokens // 2 if where == "middle" else 0


def split_class_row(positions: Tensor, place: int) -> tuple[Tensor, Tensor]:
    """The class token's position (1, 1, dim) and the others, from (1, 1 + count, dim)."""
    others = torch.cat([positions[:, :place], positions[:, place + 1 :]], dim=1)
    return positions[:, place : place + 1], others


def insert_token(tokens: Tensor, token: Tensor, place: int) -> Tensor:
    """Insert one token (1, 1, dim) into (batch, token, dim)."""
    token = token.expand(tokens.shape[0], -1, -1).to(tokens.dtype)
    return torch.cat([tokens[:, :place], token, tokens[:, place:]], dim=1)
