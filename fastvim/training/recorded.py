"""A model's training passes as CUDA graphs, so that a GPU does not wait for launches."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_leaves, tree_map


class RecordedPasses:
    """Takes `model.forward` over: the first call in training records, later ones replay.

    Forward and backward pass are recorded, and outputs are copies of what the graph writes. Outside
    of training the model runs plainly. Recording runs the model a few times, which draws random
    numbers and counts in batch statistics, and no other thread may pin memory meanwhile.

    Until `close` the model stays on its device and its parameters stay where they are in memory,
    and a forward pass that is differentiated is so before the next: a graph has one place for what
    its backward pass needs.

    Calls raise ValueError for inputs that are no tensors or of other shapes than the first, and for
    a second call before the backward pass; RuntimeError where the model cannot be recorded, because
    it decides something on the processor or not all of its parameters get a gradient.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model, self._plain = model, model.forward
        self._was_wrapped = "forward" in vars(model)
        self._replay: Callable[..., Any] | None = None
        self._recorded: list[Any] = []
        self._awaits_backward = False
        model.forward = self._forward

    def close(self) -> None:
        """Give the model the forward that it had, and free the graphs."""
        if self._was_wrapped:
            self._model.forward = self._plain
        else:
            del self._model.forward
        self._replay = None

    def _forward(self, *inputs: Any, **options: Any) -> Any:
        if not self._model.training:
            return self._plain(*inputs, **options)
        kinds = [_kind(value) for value in (*inputs, *options.values())]
        if options or not all(isinstance(value, Tensor) for value in inputs):
            raise _unfit(f"a model that is called with tensors alone, by position, got {kinds}")
        if self._replay is None:
            self._replay, self._recorded = self._record(inputs), kinds
        if kinds != self._recorded:
            raise _unfit(f"the inputs of the first step again, {self._recorded}, got {kinds}")
        if self._awaits_backward:
            raise _unfit("one forward pass before each backward pass, got two")
        outputs = tree_map(torch.clone, self._replay(*inputs))
        for output in tree_leaves(outputs):
            if output.requires_grad:
                self._awaits_backward = True
                output.register_hook(self._on_backward)
        return outputs

    def _on_backward(self, gradient: Tensor) -> None:
        self._awaits_backward = False

    def _record(self, inputs: tuple[Tensor, ...]) -> Callable[..., Any]:
        """Record both passes; returns what replays them for other inputs."""
        model, count = self._model, len(inputs)
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}

        def run(*tensors: Tensor) -> Any:
            parameters = dict(zip(trained, _Apart.apply(*tensors[count:]), strict=True))
            model.forward = self._plain
            try:
                return functional_call(model, parameters, tensors[:count])
            finally:
                model.forward = self._forward

        samples = [value.detach().clone() for value in inputs]
        # Aliases: the parameters' own places in the autograd graph may be known to DDP, whose
        # stream is not the one that is recorded. Their memory is the same: a replay copies nothing.
        aliases = [parameter.detach().requires_grad_() for parameter in trained.values()]
        try:
            with torch.enable_grad():
                graphed = torch.cuda.make_graphed_callables(run, (*samples, *aliases))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise RuntimeError(
                f"Recipe key 'graphed': {type(model).__name__} cannot be recorded: {error}. "
                "Set it to false"
            ) from error
        return lambda *inputs: graphed(*inputs, *trained.values())


class _Apart(torch.autograd.Function):
    """Parameters, whose gradients lie apart in memory.

    Those of the terms of a sum are one tensor, or parts of it. A plain backward pass copies what
    others hold, too; a replay hands out the recording's memory, which clipping would scale twice.
    """

    @staticmethod
    def forward(ctx: Any, *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        return tuple(parameter.view_as(parameter) for parameter in parameters)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        taken: list[tuple[int, int]] = []
        apart = []
        for gradient in gradients:
            if gradient is not None:
                begin, end = _extent(gradient)
                if any(begin < other_end and other < end for other, other_end in taken):
                    gradient = gradient.clone()
                taken.append(_extent(gradient))
            apart.append(gradient)
        return tuple(apart)


def _extent(tensor: Tensor) -> tuple[int, int]:
    """Where a tensor begins and ends in memory."""
    last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size()


def _kind(value: Any) -> Any:
    """What of an input stays the same in all steps."""
    if isinstance(value, Tensor):
        return tuple(value.shape), value.dtype
    return type(value).__name__


def _unfit(expected: str) -> ValueError:
    return ValueError(f"Recipe key 'graphed': expected {expected}. Set it to false")
