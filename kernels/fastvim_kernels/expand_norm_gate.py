"""The scan's output back on the full grid: skip, both directions, LayerNorm, gate."""

from typing import Any, Sequence  # noqa: UP035 - all that PyTorch 2.6 accepts in an operator

import torch
import torch.nn.functional as F
from torch import Tensor

from fastvim_kernels.operation import operation
from fastvim_kernels.pieces import pieces, wide


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
    skipped, z : (batch, *grid, channel), with the channels adjacent in memory and the other axes
    in any order.
    weight, bias : (channel,) of the LayerNorm; None leaves it out.

    Returns (batch, *grid, channel) in `z`'s dtype and order. Arithmetic is float32.
    """
    if weight is not None and bias is not None:
        weight, bias = weight.to(wide(z.dtype)), bias.to(wide(z.dtype))
    return _forward(y, skipped, z, weight, bias, pool, eps)


# Both operations work on pieces that fit the cache; only the inputs are kept for backward.


@operation("expand_norm_gate")
def _forward(
    y: Tensor,
    skipped: Tensor,
    z: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    pool: Sequence[int],
    eps: float,
) -> Tensor:
    half = _half(y, z.shape[1:-1], pool)
    result = torch.empty_like(z)
    # each token is on its own: take them as they lie in memory
    axes = (0, *sorted(range(1, z.ndim - 1), key=z.stride, reverse=True), -1)
    half, skipped, z, out = (v.permute(axes) for v in (half, skipped, z, result))
    batch, *grid, channel = z.shape
    for images, rows in pieces(batch, grid, channel, z.device, split_rows=True):
        mixed = _expand(half, skipped, images, rows)
        if weight is not None:
            mixed = F.layer_norm(mixed, weight.shape, weight, bias, eps)
        torch.mul(F.silu(_piece(z, images, rows)), mixed, out=out[images, rows])
    return result


@_forward.register_fake
def _(
    y: Tensor,
    skipped: Tensor,
    z: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    pool: Sequence[int],
    eps: float,
) -> Tensor:
    return torch.empty_like(z)


@operation("expand_norm_gate_backward")
def _backward(
    dout: Tensor,
    y: Tensor,
    skipped: Tensor,
    z: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    pool: Sequence[int],
    eps: float,
    *,
    out: Tensor | None = None,
    again: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of `y`, `skipped`, `z`, `weight` and `bias`, and the result if `again`.

    The one of `y` is (batch, step, channel), as the directions' are the same. out : memory for the
    gradient of `z`.
    """
    batch, *grid, channel = z.shape
    half = _half(y, grid, pool)
    dhalf = half.new_zeros(half.shape)
    dskipped, dz = torch.empty_like(skipped), torch.empty_like(z) if out is None else out
    gated = torch.empty_like(skipped) if again else skipped.new_empty(0)
    dweight, dbias = (half.new_zeros(0 if v is None else channel) for v in (weight, bias))
    axes = [axis + 1 for axis in pool]
    for images, rows in pieces(batch, grid, channel, z.device, split_rows=True):
        gate, dpiece = _piece(z, images, rows), _piece(dout, images, rows)
        mixed = normed = _expand(half, skipped, images, rows)
        if weight is not None:
            normed, mean, rstd = torch.native_layer_norm(mixed, weight.shape, weight, bias, eps)
        sigmoid = torch.sigmoid(gate)
        silu = gate * sigmoid
        if again:
            torch.mul(silu, normed, out=gated[images, rows])
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
        dhalf[images, into] += dmixed.sum(axes, keepdim=True) if axes else dmixed
    dy = dhalf.div_(2).to(y.dtype).view(y.shape[1:])
    return dy, dskipped, dz, dweight, dbias, gated


@_backward.register_fake
def _(
    dout: Tensor,
    y: Tensor,
    skipped: Tensor,
    z: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    pool: Sequence[int],
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    dweight, dbias = (
        z.new_empty(0 if v is None else v.shape, dtype=wide(z.dtype)) for v in (weight, bias)
    )
    dskipped, dz = torch.empty_like(skipped), torch.empty_like(z)
    return y.new_empty(y.shape[1:]), dskipped, dz, dweight, dbias, skipped.new_empty(0)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.pool, ctx.eps = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
    y, skipped, z, weight, bias = ctx.saved_tensors  # once only, or checkpointing complains
    dy, dskipped, dz, dweight, dbias, _ = _backward(
        dout, y, skipped, z, weight, bias, ctx.pool, ctx.eps
    )
    norm = (None, None) if weight is None else (dweight, dbias)
    return dy.expand(y.shape), dskipped, dz, *norm, None, None


_forward.register_autograd(_differentiate, setup_context=_save)


def _half(y: Tensor, grid: Sequence[int], pool: Sequence[int]) -> Tensor:
    """Mean of the directions, (batch, *grid with 1 for pooled axes, channel), in float32."""
    _, batch, _, channel = y.shape
    scanned = [1 if axis in pool else size for axis, size in enumerate(grid)]
    return y.sum(0, dtype=wide(y.dtype)).div_(2).reshape(batch, *scanned, channel)


def _expand(half: Tensor, skipped: Tensor, images: slice, rows: slice) -> Tensor:
    """Sum of both paths on some rows of the full grid."""
    into = slice(None) if half.shape[1] == 1 else rows
    return torch.add(half[images, into], _piece(skipped, images, rows), alpha=0.5)


def _piece(tokens: Tensor, images: slice, rows: slice) -> Tensor:
    """Part of a tensor in float32 and in the order of its axes, in which the rest is fastest."""
    return tokens[images, rows].to(wide(tokens.dtype), memory_format=torch.contiguous_format)
