"""The selective state-space recurrence, both directions in one loop."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from fastvim_kernels.pieces import piece_elements


def selective_scan(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """Scan direction 0 from the first step to the last, and direction 1 from the last to the first.

        h_t = exp(dt_t * A) * h_{t-1} + dt_t * B_t * u_t
        y_t = C_t . h_t

    u, dt : (2, batch, step, channel), dt positive.
    A : (2, channel, state), negative. B, C : (2, batch, step, state).

    Returns y, shape and dtype of `u`; the arithmetic is float32.
    """
    with torch.autocast(u.device.type, enabled=False):
        return _Scan.apply(*(v.float() for v in (u, dt, A, B, C))).to(u.dtype)


class _Scan(Function):
    """Both directions forward in time, a chunk of steps at a time.

    Shapes, here and below: u, dt, y (step, 2, batch, channel); A (2, 1, state, channel); B, C
    (step, 2, batch, state); h (step, 2, batch, state, channel). Only the state before each chunk
    is kept, and the backward pass recomputes the others.
    """

    @staticmethod
    def forward(ctx: Any, u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
        u, dt, B, C = (_step_major(v) for v in (u, dt, B, C))
        A = A.mT.unsqueeze(1).contiguous()
        y = torch.empty_like(u)
        h = u.new_zeros(*u.shape[1:3], *A.shape[2:])
        chunks = _chunks(u, A)
        buffers = h.new_empty(2, chunks[0].stop, *h.shape)
        starts = []
        for chunk in chunks:
            starts.append(h)
            decay, states = buffers[:, : chunk.stop - chunk.start]
            _advance(h, u[chunk], dt[chunk], A, B[chunk], decay, states)
            torch.matmul(C[chunk].unsqueeze(-2), states, out=y[chunk].unsqueeze(-2))
            h = states[-1].clone()
        ctx.save_for_backward(u, dt, A, B, C, *starts)
        return _direction_major(y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, ...]:
        u, dt, A, B, C, *starts = ctx.saved_tensors
        dy = _step_major(dy)
        du, ddt, dB, dC = (torch.empty_like(v) for v in (u, dt, B, C))
        dA = torch.zeros_like(starts[0])  # summed over the batch at the end
        carried = torch.zeros_like(starts[0])  # gradient of the state after the chunk
        chunks = _chunks(u, A)
        buffers = carried.new_empty(3, chunks[0].stop, *carried.shape)
        for chunk, h in zip(reversed(chunks), reversed(starts), strict=True):
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
        dA = dA.sum(1).mT
        du, ddt, dB, dC = (_direction_major(v) for v in (du, ddt, dB, dC))
        return du, ddt, dA, dB, dC


def _step_major(v: Tensor) -> Tensor:
    """(2, batch, step, n) to (step, 2, batch, n), direction 1 reversed in time."""
    return torch.stack([v[0].transpose(0, 1), v[1].transpose(0, 1).flip(0)], dim=1)


def _direction_major(v: Tensor) -> Tensor:
    """Undo `_step_major`."""
    return torch.stack([v[:, 0].transpose(0, 1), v[:, 1].flip(0).transpose(0, 1)])


def _chunks(u: Tensor, A: Tensor) -> list[slice]:
    """Steps that fit in one chunk."""
    steps = max(1, piece_elements(u.device) // (u[0].numel() * A.shape[-2]))
    return [slice(start, min(start + steps, len(u))) for start in range(0, len(u), steps)]


def _advance(
    h: Tensor, u: Tensor, dt: Tensor, A: Tensor, B: Tensor, decay: Tensor, states: Tensor
) -> None:
    """Write the decay factors and states of a chunk of steps that starts from state `h`."""
    # exp2 takes half the time of exp on a CPU
    torch.mul(dt.unsqueeze(-2), A * math.log2(math.e), out=decay).exp2_()
    torch.mul(B.unsqueeze(-1), (dt * u).unsqueeze(-2), out=states)
    for step_decay, state in zip(decay, states, strict=True):
        h = state.addcmul_(step_decay, h)
