"""Residual addition and normalisation, and a projection of the sum, in one operation.

With the projection the normalised tokens need not be kept for its gradient: the backward pass of
the norm reads what they are made of anyway, and writes them once more.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastvim_kernels.operation import implementation, operator, product_dtype, reference
from fastvim_kernels.pieces import wide


def add_norm(
    hidden: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    """Add `hidden` to the float32 residual stream and normalise the sum.

    hidden, residual : (..., dim); a residual of None is zero.
    weight, bias : (dim,). LayerNorm with a bias, RMSNorm without one.

    Returns the normalised sum in `hidden`'s dtype and the sum in float32, both (..., dim).
    """
    return _add_norm(hidden, residual, weight, bias, None, eps)


def norm_project(
    hidden: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    projection: Tensor,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    """Add `hidden` to the residual stream, normalise the sum and project it.

        normed, total = add_norm(hidden, residual, weight, bias)
        projected = normed @ projection.T

    projection : (out, dim). The others are those of `add_norm`.

    Returns `projected`, (..., out), in autocast's dtype where that is on and in `hidden`'s
    otherwise; and the sum in float32, (..., dim). The backward pass computes the gradients of all
    inputs, wanted or not.
    """
    return _add_norm(hidden, residual, weight, bias, projection.to(product_dtype(hidden)), eps)


def _add_norm(
    hidden: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    projection: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor]:
    dtype = wide(hidden.dtype)
    bias = None if bias is None else bias.to(dtype)
    out, total, _ = _forward(hidden, residual, weight.to(dtype), bias, projection, eps)
    return out, total


@reference("add_norm")
def _norm(
    hidden: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Also return the statistics, (2, ..., 1): mean (zero for RMSNorm) and 1 / deviation."""
    total = torch.empty(hidden.shape, dtype=wide(hidden.dtype), device=hidden.device)
    if residual is None:
        total.copy_(hidden)
    else:
        torch.add(residual.to(total.dtype), hidden, out=total)
    if bias is None:
        # PyTorch's own RMSNorm takes four times as long on a CPU
        rms = torch.linalg.vector_norm(total, dim=-1, keepdim=True) * total.shape[-1] ** -0.5
        scale = torch.rsqrt(rms.square_().add_(eps))
        normed, mean = (total * scale).mul_(weight), torch.zeros_like(scale)
    else:
        normed, mean, scale = torch.native_layer_norm(total, weight.shape, weight, bias, eps)
    return normed.to(hidden.dtype), total, torch.stack([mean, scale])


@reference("add_norm_backward")
def _norm_backward(
    dnormed: Tensor,
    dtotal: Tensor | None,
    total: Tensor,
    stats: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
    of_residual: bool,
    *,
    again: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of hidden, in its `dtype`, the residual, the weight and the bias.

    The first two are one gradient: the second, in float32, is empty unless `of_residual`. Last
    comes the normalised sum, in `dtype`, if `again`; otherwise it is empty, too.
    """
    dnormed = dnormed.to(total.dtype).contiguous()
    mean, scale = stats
    normed_again = total.new_empty(0, dtype=dtype)
    if again:
        exact = torch.sub(total, mean).mul_(scale).mul_(weight)
        normed_again = (exact if bias is None else exact.add_(bias)).to(dtype)
    if bias is None:
        normed = total * scale
        product = dnormed * normed
        flat = product.flatten(0, -2)
        dweight, dbias = flat.new_ones(len(flat)) @ flat, flat.new_empty(0)
        shrink = product @ (weight / len(weight))
        dx = torch.mul(dnormed, weight, out=product)
        dx.addcmul_(normed, shrink.unsqueeze(-1), value=-1).mul_(scale)
    else:
        dx, dweight, dbias = torch.ops.aten.native_layer_norm_backward(
            dnormed, total, weight.shape, mean, scale, weight, bias, [True, True, True]
        )
    if dtotal is not None:
        dx.add_(dtotal)
    if not of_residual:
        return dx.to(dtype), dx.new_empty(0), dweight, dbias, normed_again
    return dx.to(dtype, copy=True), dx, dweight, dbias, normed_again


# One operator with the projection and without: before 2.14 Inductor spells out all that leads to an
# operator when it first meets it, which at the end of a model of many blocks takes for ever.
@operator("add_norm")
def _forward(
    hidden: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    projection: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the normalised sum or, in the projection's dtype, its product; sum and statistics."""
    normed, total, stats = implementation("add_norm", hidden)(hidden, residual, weight, bias, eps)
    if projection is None:
        return normed, total, stats
    return F.linear(normed.to(projection.dtype), projection), total, stats


@_forward.register_fake
def _(
    hidden: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    projection: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    *rows, _ = hidden.shape
    total = hidden.new_empty(hidden.shape, dtype=wide(hidden.dtype))
    stats = total.new_empty(2, *rows, 1)
    if projection is None:
        return hidden.new_empty(hidden.shape), total, stats
    return projection.new_empty(*rows, projection.shape[0]), total, stats


@operator("add_norm_backward")
def _backward(
    dout: Tensor,
    dtotal: Tensor | None,
    total: Tensor,
    stats: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    projection: Tensor | None,
    dtype: torch.dtype,
    of_residual: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As `_norm_backward`, but last comes the projection's gradient, empty without one."""
    norm_backward = implementation("add_norm_backward", total)
    if projection is None:
        return norm_backward(dout, dtotal, total, stats, weight, bias, dtype, of_residual)
    *gradients, normed = norm_backward(
        dout @ projection, dtotal, total, stats, weight, bias, dtype, of_residual, again=True
    )
    rows = normed.to(projection.dtype).flatten(0, -2)
    return *gradients, dout.flatten(0, -2).mT @ rows


@_backward.register_fake
def _(
    dout: Tensor,
    dtotal: Tensor | None,
    total: Tensor,
    stats: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    projection: Tensor | None,
    dtype: torch.dtype,
    of_residual: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    dhidden = torch.empty_like(total, dtype=dtype)
    dresidual = torch.empty_like(total) if of_residual else total.new_empty(0)
    dbias = weight.new_empty(0 if bias is None else bias.shape)
    none = total.new_empty(0, dtype=dtype)
    dprojection = none if projection is None else projection.new_empty(projection.shape)
    return dhidden, dresidual, torch.empty_like(weight), dbias, dprojection


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    hidden, residual, weight, bias, projection, _ = inputs
    _, total, stats = output
    ctx.save_for_backward(total, stats, weight, bias, projection)
    ctx.mark_non_differentiable(stats)
    ctx.set_materialize_grads(False)  # the last sum of a model is not used
    ctx.dtypes = hidden.dtype, None if residual is None else residual.dtype


def _differentiate(
    ctx: Any, dout: Tensor | None, dtotal: Tensor | None, _: None
) -> tuple[Tensor | None, ...]:
    total, stats, weight, bias, projection = ctx.saved_tensors
    if dout is None and projection is None:
        dout = torch.zeros_like(total)
    elif dout is None:
        dout = projection.new_zeros(*total.shape[:-1], projection.shape[0])
    of_hidden, of_residual = ctx.dtypes
    dhidden, dresidual, dweight, dbias, dprojection = _backward(
        dout, dtotal, total, stats, weight, bias, projection, of_hidden, of_residual is not None
    )
    return (
        dhidden,
        None if of_residual is None else dresidual.to(of_residual),
        dweight,
        None if bias is None else dbias,
        None if projection is None else dprojection,
        None,
    )


_forward.register_autograd(_differentiate, setup_context=_save)
