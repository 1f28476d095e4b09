"""The selective state-space recurrence, both directions in one loop."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastvim_kernels.operation import keeps_for_backward, operation
from fastvim_kernels.pieces import piece_elements, wide

CHUNK_STEPS = 64  # two bytes a step and channel of stored states


def selective_scan(
    u: Tensor, dt: Tensor, dt_bias: Tensor, A_log: Tensor, B: Tensor, C: Tensor
) -> Tensor:
    """Scan direction 0 from the first step to the last, and direction 1 from the last to the first.

        s_t = softplus(dt_t + dt_bias)
        h_t = exp(-s_t * exp(A_log)) * h_{t-1} + s_t * B_t * u_t
        y_t = C_t . h_t

    u, dt : (2, batch, step, channel). dt_bias : (2, channel). A_log : (2, channel, state).
    B, C : (2, batch, step, state), with any strides for all but the last axis.

    Returns y, shape and dtype of `u`; the arithmetic is float32.
    """
    precision = wide(u.dtype)
    inputs = (u, dt, dt_bias.to(precision), A_log.to(precision), B, C)
    return _forward(*inputs, keeps_for_backward(*inputs))[0]


# Both operations run both directions forward in time, a chunk of steps at a time. Inside, u, dt and
# y have shape (step, 2, batch, channel), the rates A (2, 1, state, channel), B and C (step, 2,
# batch, state), h (2, batch, state, channel), and `states` a step in front of that. Only the state
# before each chunk but the first is kept, whatever the backend; the backward pass recomputes the
# others.


@operation("selective_scan")
def _forward(
    u: Tensor, dt: Tensor, dt_bias: Tensor, A_log: Tensor, B: Tensor, C: Tensor, keep: bool
) -> tuple[Tensor, Tensor]:
    """Also return the state before each chunk but the first if `keep`, else none."""
    starts = empty_starts(u, A_log, keep=keep)
    steps = CHUNK_STEPS
    while steps * math.prod(starts.shape[1:]) > piece_elements(u.device) and steps % 2 == 0:
        steps //= 2  # whose states fit the cache
    pieces = _cut(u.shape[2], steps)
    dtype = u.dtype
    u, dt, B, C = _step_major(u, dt, B, C)
    # softplus, which PyTorch runs on one core at this size: 235 us at 32 steps of 2 x 384 channels,
    # and 125 in this form on two
    dt = F.logsigmoid(-(dt + dt_bias.unsqueeze(1))).neg_()
    A = _rates(A_log)
    y = torch.empty_like(u)
    h = starts.new_zeros(starts.shape[1:])
    buffers = starts.new_empty(2, pieces[0].stop, *h.shape)
    for piece in pieces:
        chunk, within = divmod(piece.start, CHUNK_STEPS)
        if keep and chunk and not within:
            starts[chunk - 1] = h
        decay, states = buffers[:, : piece.stop - piece.start]
        _advance(h, u[piece], dt[piece], A, B[piece], decay, states)
        torch.matmul(C[piece].unsqueeze(-2), states, out=y[piece].unsqueeze(-2))
        h.copy_(states[-1])
    return _direction_major(y, dtype), starts


@_forward.register_fake
def _(
    u: Tensor, dt: Tensor, dt_bias: Tensor, A_log: Tensor, B: Tensor, C: Tensor, keep: bool
) -> tuple[Tensor, Tensor]:
    return u.new_empty(u.shape), empty_starts(u, A_log, keep=keep)


@operation("selective_scan_backward")
def _backward(
    dy: Tensor,
    u: Tensor,
    dt: Tensor,
    dt_bias: Tensor,
    A_log: Tensor,
    B: Tensor,
    C: Tensor,
    starts: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    chunks = _cut(u.shape[2], CHUNK_STEPS)
    dtypes = [v.dtype for v in (u, dt, B, C)]
    of_bias, of_rates = dt_bias.dtype, A_log.dtype
    dy, u, dt, B, C = _step_major(dy, u, dt, B, C)
    dt = F.softplus(dt + dt_bias.unsqueeze(1))
    A = _rates(A_log)
    du, ddt, dB, dC = (torch.empty_like(v) for v in (u, dt, B, C))
    zero = starts.new_zeros(starts.shape[1:])
    dA = torch.zeros_like(zero)  # summed over the batch at the end
    carried = torch.zeros_like(zero)  # gradient of the state after the chunk
    buffers = starts.new_empty(3, chunks[0].stop, *zero.shape)
    for chunk, h in zip(reversed(chunks), [*reversed(starts.unbind()), zero], strict=True):
        decay, states, dh = buffers[:, : chunk.stop - chunk.start]
        _advance(h, u[chunk], dt[chunk], A, B[chunk], decay, states)
        torch.mul(C[chunk].unsqueeze(-1), dy[chunk].unsqueeze(-2), out=dh)
        dh[-1] += carried
        for t in range(len(dh) - 1, 0, -1):
            dh[t - 1].addcmul_(decay[t], dh[t])
        torch.mul(decay[0], dh[0], out=carried)
        fed = dt[chunk] * u[chunk]
        dfed = (B[chunk].unsqueeze(-2) @ dh).squeeze(-2)
        torch.matmul(fed.unsqueeze(-2), dh.mT, out=dB[chunk].unsqueeze(-2))
        torch.matmul(dy[chunk].unsqueeze(-2), states.mT, out=dC[chunk].unsqueeze(-2))
        exponent = decay.mul_(dh)  # from here on the gradient of dt * A
        exponent[0].mul_(h)
        exponent[1:].mul_(states[:-1])
        for step_dt, step in zip(dt[chunk].unsqueeze(-2), exponent, strict=True):
            dA.addcmul_(step, step_dt)
        ddt[chunk] = exponent.mul_(A).sum(-2).addcmul_(dfed, u[chunk])
        torch.mul(dfed, dt[chunk], out=du[chunk])
    ddt *= -torch.expm1(-dt)  # the slope of softplus
    dbias, dA_log = ddt.sum((0, 2)), (dA * A).sum(1).mT.contiguous()
    du, ddt, dB, dC = (
        _direction_major(v, dtype) for v, dtype in zip((du, ddt, dB, dC), dtypes, strict=True)
    )
    return du, ddt, dbias.to(of_bias), dA_log.to(of_rates), dB, dC


@_backward.register_fake
def _(
    dy: Tensor,
    u: Tensor,
    dt: Tensor,
    dt_bias: Tensor,
    A_log: Tensor,
    B: Tensor,
    C: Tensor,
    starts: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    du, ddt, dbias, dA_log, dB, dC = (v.new_empty(v.shape) for v in (u, dt, dt_bias, A_log, B, C))
    return du, ddt, dbias, dA_log, dB, dC


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, _ = inputs
    _, starts = output
    ctx.save_for_backward(*tensors, starts)
    ctx.mark_non_differentiable(starts)
    ctx.set_materialize_grads(False)  # no zeros for the states


def _differentiate(ctx: Any, dy: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    if dy is None:
        return (None,) * 7
    return *_backward(dy, *ctx.saved_tensors), None


_forward.register_autograd(_differentiate, setup_context=_save)


def _rates(A_log: Tensor) -> Tensor:
    """(2, channel, state) to float32 (2, 1, state, channel), negative."""
    return -A_log.to(wide(A_log.dtype)).exp().mT.unsqueeze(1).contiguous()


def _step_major(*tensors: Tensor) -> Sequence[Tensor]:
    """(2, batch, step, n) each to float32 (step, 2, batch, n), direction 1 reversed in time."""
    first, second = torch.cat(tensors, dim=-1).transpose(1, 2)
    both = torch.stack([first, second.flip(0)], dim=1)
    return both.to(wide(both.dtype)).split([v.shape[-1] for v in tensors], dim=-1)


def _direction_major(v: Tensor, dtype: torch.dtype) -> Tensor:
    """Undo `_step_major`."""
    return torch.stack([v[:, 0].transpose(0, 1), v[:, 1].flip(0).transpose(0, 1)]).to(dtype)


def _cut(length: int, steps: int) -> list[slice]:
    return [slice(start, min(start + steps, length)) for start in range(0, length, steps)]


def empty_starts(u: Tensor, A_log: Tensor, *, keep: bool) -> Tensor:
    """Room for the state before each chunk but the first, or for none.

    The Triton kernels have the last two axes the other way round in this memory.
    """
    both, batch, length, channel = u.shape
    count = (length + CHUNK_STEPS - 1) // CHUNK_STEPS - 1 if keep else 0
    return u.new_empty(count, both, batch, A_log.shape[-1], channel, dtype=wide(u.dtype))


def _advance(
    h: Tensor, u: Tensor, dt: Tensor, A: Tensor, B: Tensor, decay: Tensor, states: Tensor
) -> None:
    """Write the decay factors and states of a chunk of steps that starts from state `h`."""
    # exp2 takes half the time of exp on a CPU
    torch.mul(dt.unsqueeze(-2), A * math.log2(math.e), out=decay).exp2_()
    torch.mul(B.unsqueeze(-1), (dt * u).unsqueeze(-2), out=states)
    for step_decay, state in zip(decay, states, strict=True):
        h = state.addcmul_(step_decay, h)
