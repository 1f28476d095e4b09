"""A model's training passes as CUDA graphs, so that a GPU does not wait for launches."""

import torch
from torch import Tensor, nn


def record_at_first_call(model: nn.Module) -> None:
    """Let the first forward pass in training record it and its backward pass as CUDA graphs.

    Later ones replay them; outside of training the model runs plainly. The model lies on its
    device, its inputs are tensors that keep their shapes, and its parameters stay where they are in
    memory. A call that cannot be recorded raises ValueError. To undo it, delete ``model.forward``.
    """
    plain = model.forward

    def record(*inputs: Tensor) -> Tensor:
        if not model.training:
            return plain(*inputs)
        if not all(isinstance(value, Tensor) for value in inputs):
            kinds = [type(value).__name__ for value in inputs]
            raise ValueError(
                f"Recipe key 'graphed': expected a model whose inputs are tensors, got {kinds}. "
                "Set it to false"
            )
        model.forward = plain
        # Trial runs draw random numbers and count in batch statistics, as if they were steps.
        before = [buffer.clone() for buffer in model.buffers()]
        with torch.random.fork_rng(devices=[inputs[0].device]):
            samples = tuple(value.detach().clone() for value in inputs)
            torch.cuda.make_graphed_callables(model, samples)
        for buffer, value in zip(model.buffers(), before, strict=True):
            buffer.copy_(value)
        return model.forward(*inputs)

    model.forward = record
