"""FLOPs of the operations, for PyTorch's counter; importing this module registers them.

A module that nothing else imports, as `torch.utils.flop_counter` imports Triton. As that counter
does for PyTorch's own, it counts multiply-adds as two and elementwise work as nothing, so that
norms, gates and pooling are free; backward passes count what they recompute.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

Shape = Sequence[int]


@register_flop_formula(torch.ops.fastvim.conv_pool)
def _conv_pool(x: Shape, weight: Shape, *rest: Any, out_shape: Any = None) -> int:
    """A multiply-add a direction, tap and element."""
    directions, _, taps = weight
    return 2 * directions * taps * prod(x)


@register_flop_formula(torch.ops.fastvim.conv_pool_backward)
def _conv_pool_backward(
    dpooled: Shape, dskipped: Shape, x: Shape, weight: Shape, *rest: Any, out_shape: Any = None
) -> int:
    """The convolution again, and as much for the gradients of each of tokens and weights."""
    return 3 * _conv_pool(x, weight)


@register_flop_formula(torch.ops.fastvim.selective_scan)
def _selective_scan(
    u: Shape, dt: Shape, dt_bias: Shape, A_log: Shape, *rest: Any, out_shape: Any = None
) -> int:
    """Six a direction, step, channel and state.

    Products with A and B (2), the state's multiply-add (2), the output's (2).
    """
    return 6 * prod(u) * A_log[-1]


@register_flop_formula(torch.ops.fastvim.selective_scan_backward)
def _selective_scan_backward(
    dy: Shape,
    u: Shape,
    dt: Shape,
    dt_bias: Shape,
    A_log: Shape,
    *rest: Any,
    out_shape: Any = None,
) -> int:
    """Nineteen a direction, step, channel and state.

    The states again (4), their gradient (3), the exponent's (2), and a multiply-add for each of
    A, B, C, dt and dt * u (10).
    """
    return 19 * prod(u) * A_log[-1]


@register_flop_formula(torch.ops.fastvim.add_norm)
def _add_norm(
    hidden: Shape,
    residual: Shape | None,
    weight: Shape,
    bias: Shape | None,
    projection: Shape | None,
    *rest: Any,
    out_shape: Any = None,
) -> int:
    """The product, if there is one."""
    if projection is None:
        return 0
    return 2 * prod(hidden[:-1]) * prod(projection)


@register_flop_formula(torch.ops.fastvim.add_norm_backward)
def _add_norm_backward(
    dout: Shape,
    dtotal: Shape | None,
    total: Shape,
    stats: Shape,
    weight: Shape,
    bias: Shape | None,
    projection: Shape | None,
    *rest: Any,
    out_shape: Any = None,
) -> int:
    """A product for each of tokens and weights, if there is one."""
    if projection is None:
        return 0
    return 4 * prod(total[:-1]) * prod(projection)


@register_flop_formula(torch.ops.fastvim.mix)
def _mix(
    xz: Shape,
    conv: Shape,
    conv_bias: Shape,
    skip: Shape,
    x_proj: Shape,
    dt_proj: Shape,
    dt_bias: Shape,
    A_log: Shape,
    norm_weight: Shape | None,
    norm_bias: Shape | None,
    out_proj: Shape,
    order: Sequence[int],
    pool: Sequence[int],
    *rest: Any,
    out_shape: Any = None,
) -> int:
    """Convolution, scan, and the three projections."""
    *tokens, double = xz
    batch, *grid = tokens
    scanned = prod(
        size for place, size in enumerate(grid[axis] for axis in order) if place not in pool
    )
    steps = 2 * batch * scanned
    products = steps * (prod(x_proj[1:]) + prod(dt_proj[1:])) + prod(tokens) * prod(out_proj)
    u = (steps, double // 2)
    return (
        _conv_pool((*tokens, double // 2), conv)
        + _selective_scan(u, u, dt_bias, A_log)
        + 2 * products
    )


@register_flop_formula(torch.ops.fastvim.mix_backward)
def _mix_backward(dout: Shape, xz: Shape, *rest: Any, out_shape: Any = None) -> int:
    """Convolution, scan, and twice the three projections."""
    conv, _, _, x_proj, dt_proj, _, A_log, _, _, out_proj, _, pooled, *_ = rest
    *tokens, double = xz
    products = prod(pooled[:-1]) * (prod(x_proj[1:]) + prod(dt_proj[1:])) + prod(tokens) * prod(
        out_proj
    )
    convolved = 3 * _conv_pool((*tokens, double // 2), conv)
    return convolved + 19 * prod(pooled) * A_log[-1] + 4 * products
