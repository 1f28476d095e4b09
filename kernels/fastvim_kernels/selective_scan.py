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
        steps = [_step_major(v.float()) for v in (u, dt, B, C)]
        rates = A.float().mT.unsqueeze(1).contiguous()
        return _step_major_inverse(_Scan.apply(*steps, rates)).to(u.dtype)


def _step_major(v: Tensor) -> Tensor:
    """(2, batch, step, n) to (step, 2, batch, n), direction 1 reversed in time."""
    return torch.stack([v[0], v[1].flip(1)]).permute(2, 0, 1, 3).contiguous()


def _step_major_inverse(v: Tensor) -> Tensor:
    """Undo `_step_major`."""
    v = v.permute(1, 2, 0, 3)
    return torch.stack([v[0], v[1].flip(1)])


class _Scan(Function):
    """The scan of both directions forward in time.

    Shapes, here and below: u, dt, y (step, 2, batch, channel); A (2, 1, state, channel); B, C
    (step, 2, batch, state); h (step, 2, batch, state, channel). Steps go in chunks. Only the state
    before each chunk is kept, and the backward pass recomputes the others.
    """

    @staticmethod
    def forward(ctx: Any, u: Tensor, dt: Tensor, B: Tensor, C: Tensor, A: Tensor) -> Tensor:
        y = torch.empty_like(u)
        h = u.new_zeros(*u.shape[1:3], *A.shape[2:])
        chunks = _chunks(u, A)
        decay, states = _buffers(2, chunks, h)
        starts = []
        for chunk in chunks:
            starts.append(h)
            _advance(h, u[chunk], dt[chunk], A, B[chunk], decay, states)
            steps = chunk.stop - chunk.start
            y[chunk] = (C[chunk].unsqueeze(-2) @ states[:steps]).squeeze(-2)
            h = states[steps - 1].clone()
        ctx.save_for_backward(u, dt, A, B, C, *starts)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, ...]:
        u, dt, A, B, C, *starts = ctx.saved_tensors
        du, ddt, dB, dC = (torch.empty_like(v) for v in (u, dt, B, C))
        dA = torch.zeros_like(starts[0])  # summed over the batch at the end
        chunks = _chunks(u, A)
        buffers = _buffers(3, chunks, starts[0])
        carried = torch.zeros_like(starts[0])  # gradient of the state after the chunk
        for chunk, h in zip(reversed(chunks), reversed(starts), strict=True):
            decay, states, dh = buffers[:, : chunk.stop - chunk.start]
            _advance(h, u[chunk], dt[chunk], A, B[chunk], decay, states)
            torch.mul(C[chunk].unsqueeze(-1), dy[chunk].unsqueeze(-2), out=dh)
            dh[-1] += carried
            for t in range(len(dh) - 2, -1, -1):
                dh[t].addcmul_(decay[t + 1], dh[t + 1])
            torch.mul(decay[0], dh[0], out=carried)
            fed = dt[chunk] * u[chunk]
            dfed = (B[chunk].unsqueeze(-2) @ dh).squeeze(-2)
            dB[chunk] = (fed.unsqueeze(-2) @ dh.mT).squeeze(-2)
            dC[chunk] = (dy[chunk].unsqueeze(-2) @ states.mT).squeeze(-2)
            exponent = decay.mul_(dh)  # from here on the gradient of dt * A
            exponent[0].mul_(h)
            exponent[1:].mul_(states[:-1])
            for t, step in enumerate(dt[chunk]):
                dA.addcmul_(exponent[t], step.unsqueeze(-2))
            ddt[chunk] = exponent.mul_(A).sum(-2).addcmul_(dfed, u[chunk])
            du[chunk] = dfed * dt[chunk]
        return du, ddt, dB, dC, dA.sum(1, keepdim=True)


def _chunks(u: Tensor, A: Tensor) -> list[slice]:
    """Steps that fit in one chunk."""
    steps = max(1, piece_elements(u.device) // (u[0].numel() * A.shape[-2]))
    return [slice(start, min(start + steps, len(u))) for start in range(0, len(u), steps)]


def _buffers(count: int, chunks: list[slice], h: Tensor) -> Tensor:
    """Room for a chunk's decays, states and gradients, used again for every chunk."""
    return h.new_empty(count, chunks[0].stop, *h.shape)


def _advance(
    h: Tensor, u: Tensor, dt: Tensor, A: Tensor, B: Tensor, decay: Tensor, states: Tensor
) -> None:
    """Write the decay factors and states of a chunk of steps that starts from state `h`."""
    steps = len(u)
    # exp2 takes half the time of exp on a CPU
    torch.mul(dt.unsqueeze(-2), A * math.log2(math.e), out=decay[:steps]).exp2_()
    torch.mul(B.unsqueeze(-1), (dt * u).unsqueeze(-2), out=states[:steps])
    for t in range(steps):
        states[t].addcmul_(decay[t], h)
        h = states[t]
