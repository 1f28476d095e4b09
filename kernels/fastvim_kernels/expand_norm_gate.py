"""The scan's output back on the full grid: skip, both directions, LayerNorm, gate."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from fastvim_kernels.pieces import pieces


def expand_norm_gate(
    y: Tensor,
    skipped: Tensor,
    z: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    pool: Sequence[int],
    eps: float = 1e-5,
) -> Tensor:
    """Repeat the scan's output over the pooled axes, add the skip, halve, normalise and gate.

        out = LayerNorm((y_0 + y_1 + skipped) / 2) * SiLU(z)

    y : (2, batch, step, channel), steps over the axes that are not pooled, flattened.
    skipped, z : (batch, *grid, channel).
    weight, bias : (channel,) of the LayerNorm; None leaves it out.

    Returns (batch, *grid, channel) in `z`'s dtype. Arithmetic is float32.
    """
    batch, *grid, channel = z.shape
    scanned = [1 if axis in pool else size for axis, size in enumerate(grid)]
    half = y.float().sum(0).div(2).view(batch, *scanned, channel)
    if weight is not None and bias is not None:
        weight, bias = weight.float(), bias.float()
    with torch.autocast(z.device.type, enabled=False):
        return _ExpandNormGate.apply(half, skipped, z, weight, bias, eps)


class _ExpandNormGate(Function):
    """Works on pieces that fit the cache; keeps only its inputs for backward.

    half : (batch, *grid with 1 for pooled axes, channel), the directions' mean.
    """

    @staticmethod
    def forward(
        ctx: Any,
        half: Tensor,
        skipped: Tensor,
        z: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
    ) -> Tensor:
        batch, *grid, channel = z.shape
        out = torch.empty(z.shape, dtype=z.dtype, device=z.device)
        for images, rows in pieces(batch, grid, channel, z.device, split_rows=True):
            mixed = _expand(half, skipped, images, rows)
            if weight is not None:
                mixed = F.layer_norm(mixed, weight.shape, weight, bias, eps)
            torch.mul(F.silu(z[images, rows].float()), mixed, out=out[images, rows])
        ctx.save_for_backward(half, skipped, z, weight, bias)
        ctx.eps = eps
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        half, skipped, z, weight, bias = ctx.saved_tensors
        batch, *grid, channel = z.shape
        dhalf = torch.zeros_like(half)
        dskipped = torch.empty(z.shape, dtype=skipped.dtype, device=z.device)
        dz = torch.empty(z.shape, dtype=z.dtype, device=z.device)
        dweight, dbias = (None if v is None else torch.zeros_like(v) for v in (weight, bias))
        pooled = [axis + 1 for axis, size in enumerate(half.shape[1:-1]) if size != grid[axis]]
        for images, rows in pieces(batch, grid, channel, z.device, split_rows=True):
            gate, dpiece = z[images, rows].float(), dout[images, rows].float()
            mixed = normed = _expand(half, skipped, images, rows)
            if weight is not None:
                normed, mean, rstd = torch.native_layer_norm(
                    mixed, weight.shape, weight, bias, ctx.eps
                )
            sigmoid = torch.sigmoid(gate)
            silu = gate * sigmoid
            dmixed = dpiece * silu
            # derivative of SiLU: s + u * (1 - s)
            slope = sigmoid.addcmul_(silu, 1 - sigmoid)
            torch.mul(slope.mul_(dpiece), normed, out=dz[images, rows])
            if weight is not None:
                dmixed, more, shift = torch.ops.aten.native_layer_norm_backward(
                    dmixed, mixed, weight.shape, mean, rstd, weight, bias, [True, True, True]
                )
                dweight += more
                dbias += shift
            torch.div(dmixed, 2, out=dskipped[images, rows])
            into = slice(None) if half.shape[1] == 1 else rows
            dhalf[images, into] += dmixed.sum(pooled, keepdim=True) if pooled else dmixed
        return dhalf, dskipped, dz, dweight, dbias, None


def _expand(half: Tensor, skipped: Tensor, images: slice, rows: slice) -> Tensor:
    """Sum of both paths on some rows of the full grid."""
    into = slice(None) if half.shape[1] == 1 else rows
    return torch.add(half[images, into], skipped[images, rows].float(), alpha=0.5)
