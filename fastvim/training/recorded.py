"""A model's training passes as CUDA graphs, so that a GPU does not wait for launches."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call


def record_at_first_call(model: nn.Module) -> None:
    """Let the first forward pass in training record it and its backward pass as CUDA graphs.

    Later ones replay them; outside of training the model runs plainly. The model lies on its
    device, its inputs are tensors that keep their shapes, and its parameters stay where they are in
    memory. ValueError for other inputs. To undo it, delete ``model.forward``.
    """
    plain = model.forward
    replay: Callable[..., Any] | None = None

    def forward(*inputs: Tensor) -> Any:
        nonlocal replay
        if not model.training:
            return plain(*inputs)
        if replay is None:
            if not all(isinstance(value, Tensor) for value in inputs):
                kinds = [type(value).__name__ for value in inputs]
                raise ValueError(
                    "Recipe key 'graphed': expected a model whose inputs are tensors, got "
                    f"{kinds}. Set it to false"
                )
            model.forward = plain
            replay = _record(model, inputs)
            model.forward = forward
        return replay(*inputs)

    model.forward = forward


def _record(model: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[..., Any]:
    """Record both passes; returns what replays them for other inputs."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    count = len(inputs)

    def run(*tensors: Tensor) -> Any:
        parameters = dict(zip(trained, tensors[count:], strict=True))
        return functional_call(model, parameters, tensors[:count])

    samples = [value.detach().clone() for value in inputs]
    # Aliases: the parameters' own places in the autograd graph may be known to DDP, whose stream is
    # not the one that is recorded. Their memory is the same, so that nothing is copied in a replay.
    aliases = [parameter.detach().requires_grad_() for parameter in trained.values()]
    # Trial runs draw random numbers and count in batch statistics, as if they were steps.
    before = [buffer.clone() for buffer in model.buffers()]
    with torch.random.fork_rng(devices=[inputs[0].device]):
        graphed = torch.cuda.make_graphed_callables(run, (*samples, *aliases))
    for buffer, value in zip(model.buffers(), before, strict=True):
        buffer.copy_(value)
    return lambda *inputs: graphed(*inputs, *trained.values())
