"""Inference on a GPU as one CUDA graph, so that launching kernels costs nothing."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from fastvim.mixer import Mixer

WARM_UPS = 2


class Graphed:
    """A frozen copy of a model that is recorded for each shape of input and then replayed.

    The first call with a shape runs plainly, the second records, and later ones replay; at
    small images launches take longer than arithmetic, so that replaying is several times faster.

    model : on a CUDA device. call : what to run, given the copy and the inputs; by default the
    model itself. dtype : of matrix products, as under autocast; float32 for none.
    """

    def __init__(
        self,
        model: nn.Module,
        call: Callable[..., Any] | None = None,
        *,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.call = call or (lambda model, *inputs: model(*inputs))
        self.dtype = dtype
        for module in self.model.modules():
            if isinstance(module, Mixer):
                module.freeze(dtype)
        self._graphs: dict[Any, tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...], Any]] = {}
        self._seen: set[Any] = set()

    def __call__(self, *inputs: Tensor) -> Any:
        """What the model returns, in memory of its own."""
        key = tuple((value.shape, value.dtype, value.device) for value in inputs)
        if key in self._graphs:
            graph, held, outputs = self._graphs[key]
            for place, value in zip(held, inputs, strict=True):
                place.copy_(value)
            graph.replay()
            return tree_map(torch.clone, outputs)
        if key not in self._seen:
            self._seen.add(key)
            return self._run(inputs)
        self._graphs[key] = self._record(inputs)
        return self(*inputs)

    def _run(self, inputs: tuple[Tensor, ...]) -> Any:
        autocast = torch.autocast("cuda", self.dtype, enabled=self.dtype != torch.float32)
        # no inference mode: its tensors cannot be written to by a later replay
        with torch.no_grad(), autocast:
            return self.call(self.model, *inputs)

    def _record(
        self, inputs: tuple[Tensor, ...]
    ) -> tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...], Any]:
        held = tuple(value.clone() for value in inputs)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                self._run(held)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = self._run(held)
        return graph, held, outputs
