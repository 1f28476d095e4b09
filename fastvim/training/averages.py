"""An exponential moving average of a model's weights."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn


class MovingAverage:
    """The average ``a`` of all weights and floating-point buffers ``w`` of `model`.

    It starts at `model`'s present values, and every update is ``a += (1 - decay) * (w - a)``, as in
    timm's ModelEmaV3 without its warm-up; integers are copied. The published training updated it
    before the optimiser's step, one step late. It lives on the model's device: put the model there
    first.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._weight = 1 - decay
        self._current = model.state_dict()
        self._average = {name: tensor.clone() for name, tensor in self._current.items()}
        self._floating = [n for n, tensor in self._average.items() if tensor.is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the model's present weights."""
        average, current = self._average, self._current
        torch._foreach_lerp_(
            [average[name] for name in self._floating],
            [current[name] for name in self._floating],
            self._weight,
        )
        for name in average.keys() - set(self._floating):
            average[name].copy_(current[name])

    @contextmanager
    def in_model(self) -> Generator[None]:
        """Lend the averaged weights to the model; afterwards it has its own, to the bit.

        Values are copied in place, so that wrappers, compiled code and precision stay as they are.
        """
        own = {name: tensor.clone() for name, tensor in self._current.items()}
        self._overwrite(self._average)
        try:
            yield
        finally:
            self._overwrite(own)

    def state_dict(self) -> dict[str, Tensor]:
        """The averages, by the names of the model's state dict."""
        return self._average

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state_dict` returned."""
        for name, tensor in self._average.items():
            tensor.copy_(state[name])

    @torch.no_grad()
    def _overwrite(self, values: Mapping[str, Tensor]) -> None:
        for name, tensor in self._current.items():
            tensor.copy_(values[name])


def averaged_weights(checkpoint: Path) -> dict[str, Tensor]:
    """Read the averaged weights of a checkpoint that `fit` wrote with ``ema_decay``, on the CPU.

    The names are those of the model's state dict. Raises ValueError where the run kept no average.
    """
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    if "ema" not in content:
        raise ValueError(
            f"{checkpoint}: expected averaged weights, got a run without them. Set the recipe's "
            "ema_decay and train again, or use the plain weights"
        )
    return content["ema"]
