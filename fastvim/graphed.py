"""Inference on a GPU as one CUDA graph, so that launching kernels costs nothing."""

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from fastvim.mixer import Mixer

MEMORY_TO_SPARE = 1.25
"""Free memory that a recording asks for, in multiples of what one call took."""


class _Recording(NamedTuple):
    """A graph, the inputs that it reads and the outputs that it writes."""

    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    outputs: Any


class Graphed:
    """A frozen copy of a model that is recorded for each shape of input and then replayed.

    The first call with a shape runs plainly, the second records, and later ones replay; at
    small images launches take longer than arithmetic, so that replaying is several times faster.
    A recording holds as much memory as a call takes, as long as this object lives. Where that is
    not free, the shape is not recorded and always runs plainly: running out of memory amid a
    recording can leave PyTorch's allocator unusable.

    model : on a CUDA device. call : what to run, given the copy and the inputs; by default the
    model itself. Whatever else it uses is a constant of the recording, and its tensors have to lie
    on the device. dtype : of matrix products, as under autocast; float32 for none.
    plain_calls : calls of a shape before the one that records it, at least one.
    """

    def __init__(
        self,
        model: nn.Module,
        call: Callable[..., Any] | None = None,
        *,
        dtype: torch.dtype = torch.bfloat16,
        plain_calls: int = 1,
    ) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.call = call or (lambda model, *inputs: model(*inputs))
        self.dtype = dtype
        self.plain_calls = plain_calls
        for module in self.model.modules():
            if isinstance(module, Mixer):
                module.freeze(dtype)
        self._calls: Counter[Any] = Counter()
        self._recordings: dict[Any, _Recording | None] = {}

    def __call__(self, *inputs: Tensor) -> Any:
        """What the model returns, in memory of its own."""
        key = tuple((value.shape, value.dtype, value.device) for value in inputs)
        recording = self._recordings.get(key)
        if recording is not None:
            for place, value in zip(recording.inputs, inputs, strict=True):
                place.copy_(value)
            recording.graph.replay()
            return tree_map(torch.clone, recording.outputs)
        if key in self._recordings or self._calls[key] < self.plain_calls:
            self._calls[key] += 1
            return self._run(inputs)
        outputs, self._recordings[key] = self._run_and_record(inputs)
        return outputs

    def _run(self, inputs: tuple[Tensor, ...]) -> Any:
        autocast = torch.autocast("cuda", self.dtype, enabled=self.dtype != torch.float32)
        # no inference mode: its tensors cannot be written to by a later replay
        with torch.no_grad(), autocast:
            return self.call(self.model, *inputs)

    def _run_and_record(self, inputs: tuple[Tensor, ...]) -> tuple[Any, _Recording | None]:
        """Outputs of a plain call, and a recording of it if memory allows."""
        held = tuple(value.clone() for value in inputs)
        device = held[0].device
        torch.cuda.empty_cache()
        before = torch.cuda.memory_reserved(device)
        # also compiles and initialises what must not happen while recording
        outputs = self._run(held)
        taken = torch.cuda.memory_reserved(device) - before
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(device)
        if free < MEMORY_TO_SPARE * taken:
            return outputs, None
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            recorded = self._run(held)
        return outputs, _Recording(graph, held, recorded)
