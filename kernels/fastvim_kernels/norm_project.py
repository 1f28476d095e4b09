"""Residual addition, normalisation and a projection, as one operation.

As one, it need not keep the normalised tokens for the gradient of the projection: the backward pass
of the norm reads what they are made of anyway, and writes them once more.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastvim_kernels.add_norm import empty_gradients
from fastvim_kernels.operation import implementation, operator, product_dtype
from fastvim_kernels.pieces import wide


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
    dtype = product_dtype(hidden)
    exact = wide(hidden.dtype)
    bias = None if bias is None else bias.to(exact)
    projected, total, _ = _forward(
        hidden, residual, weight.to(exact), bias, projection.to(dtype), eps
    )
    return projected, total


@operator("norm_project")
def _forward(
    hidden: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    projection: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Also return the statistics of `add_norm`. The product is in the projection's dtype."""
    normed, total, stats = implementation("add_norm", hidden)(hidden, residual, weight, bias, eps)
    return F.linear(normed.to(projection.dtype), projection), total, stats


@_forward.register_fake
def _(
    hidden: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    projection: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    *rows, _ = hidden.shape
    total = hidden.new_empty(hidden.shape, dtype=wide(hidden.dtype))
    projected = projection.new_empty(*rows, projection.shape[0])
    return projected, total, total.new_empty(2, *rows, 1)


@operator("norm_project_backward")
def _backward(
    dprojected: Tensor,
    dtotal: Tensor | None,
    total: Tensor,
    stats: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    projection: Tensor,
    dtype: torch.dtype,
    of_residual: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As `add_norm`'s backward pass, and last the gradient of the projection."""
    *gradients, normed = implementation("add_norm_backward", total)(
        dprojected @ projection, dtotal, total, stats, weight, bias, dtype, of_residual, again=True
    )
    rows = normed.to(projection.dtype).flatten(0, -2)
    return *gradients, dprojected.flatten(0, -2).mT @ rows


@_backward.register_fake
def _(
    dprojected: Tensor,
    dtotal: Tensor | None,
    total: Tensor,
    stats: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    projection: Tensor,
    dtype: torch.dtype,
    of_residual: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    dprojection = projection.new_empty(projection.shape)
    return *empty_gradients(total, weight, bias, dtype, of_residual), dprojection


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    hidden, residual, weight, bias, projection, _ = inputs
    _, total, stats = output
    ctx.save_for_backward(total, stats, weight, bias, projection)
    ctx.mark_non_differentiable(stats)
    ctx.set_materialize_grads(False)  # what is not used needs no zeros
    ctx.dtypes = hidden.dtype, None if residual is None else residual.dtype


def _differentiate(
    ctx: Any, dprojected: Tensor | None, dtotal: Tensor | None, _: None
) -> tuple[Tensor | None, ...]:
    total, stats, weight, bias, projection = ctx.saved_tensors
    if dprojected is None:
        dprojected = projection.new_zeros(*total.shape[:-1], projection.shape[0])
    of_hidden, of_residual = ctx.dtypes
    dhidden, dresidual, dweight, dbias, dprojection = _backward(
        dprojected,
        dtotal,
        total,
        stats,
        weight,
        bias,
        projection,
        of_hidden,
        of_residual is not None,
    )
    return (
        dhidden,
        None if of_residual is None else dresidual.to(of_residual),
        dweight,
        None if bias is None else dbias,
        dprojection,
        None,
    )


_forward.register_autograd(_differentiate, setup_context=_save)
