"""One optimiser step."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn

from fastvim.training.averages import MovingAverage
from fastvim.training.optimizer import ScheduledOptimizer
from fastvim.training.plan import StepPlan
from fastvim.training.reading import Batch
from fastvim.training.recorded import RecordedPasses

Loss = Callable[[nn.Module, Batch], tuple[Tensor, Mapping[str, Tensor | float]]]
Validate = Callable[[nn.Module], Mapping[str, float]]
OnBatch = Callable[[Batch, torch.Generator], Batch]


class Stepper:
    """A model with its optimiser, schedules and place in `plan`, ready to take steps.

    While it lives, the model's forward runs in the recipe's precision; `release` undoes that.
    """

    def __init__(
        self,
        model: nn.Module,
        plan: StepPlan,
        accelerator: Accelerator,
        *,
        loss: Loss,
        on_batch: OnBatch | None,
    ) -> None:
        optimizer = ScheduledOptimizer(model, plan)
        self.plan, self.accelerator = plan, accelerator
        self._model, self._rates = model, optimizer
        self._loss, self._on_batch = loss, on_batch
        self._prepared, self._optimizer = accelerator.prepare(model, optimizer.torch)
        decay = plan.recipe.ema_decay
        # Weights are the same in all processes, so one of them averages. Preparing moves the model.
        self._average: MovingAverage | None = None
        if decay is not None and accelerator.is_main_process:
            self._average = MovingAverage(model, decay)
        self._ahead: Batch | Exception | None = None
        self._recorded: RecordedPasses | None = None
        if plan.recipe.graphed and _has_graphs(accelerator.device):
            self._recorded = RecordedPasses(model)
        # Where there is no gradient yet, a graph's own memory becomes it, which its next replay
        # overwrites: parts add up elsewhere.
        self._keeps_gradients = self._recorded is not None and plan.recipe.accumulation > 1
        if self._keeps_gradients:
            for parameter in optimizer.parameters:
                parameter.grad = torch.zeros_like(parameter)

    @property
    def records(self) -> bool:
        """Whether `record` is to be called before the first step."""
        return self._recorded is not None

    def record(self, batch: Batch) -> None:
        """Record the model's passes for parts like `batch`; takes no step and changes nothing else.

        No batches may be read ahead meanwhile, as pinning their memory breaks a recording.
        """
        self._prepared.train()
        before = [buffer.clone() for buffer in self._model.buffers()]
        with torch.no_grad():
            self._loss(self._model, self._prepare(batch, seed=0))
        for buffer, value in zip(self._model.buffers(), before, strict=True):
            buffer.copy_(value)

    def take(self, step: int, batches: Iterator[Batch]) -> dict[str, float]:
        """Take step `step` (0-based) on the next parts from `batches`.

        Steps are taken in order: unless it is the last one, the first part of the next is prepared,
        too, while the GPU computes, and stays on the device until then.

        Returns the loss and its metrics, averaged over parts and processes, and the step's
        learning rate, weight decay and gradient norm (before clipping). Raises FloatingPointError,
        in all processes and before the weights change, when loss or gradient is not finite.
        """
        self._prepared.train()
        self._optimizer.zero_grad(set_to_none=not self._keeps_gradients)
        parts = [
            self._accumulate(step, part, self._batch(step, part, batches))
            for part in range(self.plan.recipe.accumulation)
        ]
        means = torch.stack([torch.stack(list(part.values())) for part in parts]).mean(0)
        means = self.accelerator.reduce(means, "mean")
        numbers = _Arriving(torch.cat([means, self._clip().view(1)]))
        if step + 1 < self.plan.steps:
            self._prepare_ahead(step + 1, batches)
        values = dict(zip([*parts[0], "grad_norm"], numbers.wait(), strict=True))
        self._check_finite(step, values)

        values |= self._rates.schedule(step)
        self._optimizer.step()
        if self._average is not None:
            self._average.update()
        return values

    def validate(self, function: Validate) -> dict[str, float]:
        """Metrics of the unwrapped model in evaluation mode, without gradients.

        With ``ema_decay``, on the main process, also ``ema_<metric>`` of the averaged weights.
        """
        self._model.eval()
        with torch.no_grad():
            metrics = dict(function(self._model))
            if self._average is not None:
                with self._average.in_model():
                    averaged = function(self._model)
                metrics |= {f"ema_{name}": value for name, value in averaged.items()}
        return metrics

    def state(self) -> dict[str, object]:
        """Everything that the next step depends on, for a checkpoint of the main process."""
        scaler = self.accelerator.scaler
        state = {
            "model": self._model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else {},
        }
        return state if self._average is None else {**state, "ema": self._average.state_dict()}

    def restore(self, state: Mapping[str, dict]) -> None:
        """Continue from what `state` returned."""
        if self._average is not None:
            self._average.load_state_dict(state["ema"])
        self._model.load_state_dict(state["model"])
        saved = state["optimizer"]["param_groups"]
        for group, present in zip(saved, self._optimizer.param_groups, strict=False):
            group["fused"] = present["fused"]  # which the machine decides, not the run
        self._optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def release(self) -> None:
        """Give the model its own forward back, and free gradients and the part prepared ahead."""
        self._ahead = None
        if self._recorded is not None:
            self._recorded.close()
        for parameter in self._rates.parameters:
            parameter.grad = None
        self.accelerator.unwrap_model(self._prepared, keep_fp32_wrapper=False)
        # Unwrapping leaves a bound method on the instance, which a copy of the model would share.
        vars(self._model).pop("forward", None)

    def _batch(self, step: int, part: int, batches: Iterator[Batch]) -> Batch:
        """The batch of a part, on the device and augmented."""
        ahead, self._ahead = self._ahead, None
        if isinstance(ahead, Exception):
            raise ahead
        if ahead is not None:
            return ahead
        return self._prepare(next(batches), self.plan.seeds(step, part)[1])

    def _prepare_ahead(self, step: int, batches: Iterator[Batch]) -> None:
        """Prepare the first part of a step; an error is raised when that step is taken."""
        try:
            self._ahead = self._prepare(next(batches), self.plan.seeds(step, 0)[1])
        except Exception as error:
            self._ahead = error

    def _accumulate(self, step: int, part: int, batch: Batch) -> dict[str, Tensor]:
        """Add the gradient of one part; returns its loss and metrics."""
        accelerator, parts = self.accelerator, self.plan.recipe.accumulation
        set_seed(self.plan.seeds(step, part)[0])
        # Processes exchange gradients once a step, with the last part.
        synchronised = part == parts - 1
        with nullcontext() if synchronised else accelerator.no_sync(self._prepared):
            loss, metrics = self._loss(self._prepared, batch)
            accelerator.backward(loss / parts)
        return {
            name: torch.as_tensor(value, dtype=torch.float32, device=accelerator.device).detach()
            for name, value in {"loss": loss, **metrics}.items()
        }

    def _prepare(self, batch: Batch, seed: int) -> Batch:
        """Put a batch on the device and augment it there."""
        device = self.accelerator.device
        batch = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
        if self._on_batch is None:
            return batch
        return self._on_batch(batch, torch.Generator().manual_seed(seed))

    def _clip(self) -> Tensor:
        self.accelerator.unscale_gradients(self._optimizer)
        gradients = [p.grad for p in self._rates.parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        largest = self.plan.recipe.clip_grad_norm
        if largest is not None:
            torch.nn.utils.clip_grads_with_norm_(self._rates.parameters, largest, norm)
        return norm

    def _check_finite(self, step: int, values: Mapping[str, float]) -> None:
        # The loss scaler of fp16 meets infinite gradients by design, and skips such a step.
        scaled = self.accelerator.scaler is not None
        for name in ("loss",) if scaled else ("loss", "grad_norm"):
            if not math.isfinite(values[name]):
                raise FloatingPointError(
                    f"Training step {step + 1} (epoch {self.plan.epoch(step)}): "
                    f"expected a finite {name}, got {values[name]}. The checkpoints before it are "
                    "kept. Lower base_lr, set clip_grad_norm, or use precision 'no' or 'bf16', "
                    "and look at the curves before this step"
                )


class _Arriving:
    """Numbers on their way from the device: what is launched after them is not waited for."""

    def __init__(self, numbers: Tensor) -> None:
        self._numbers = numbers.to("cpu", non_blocking=numbers.is_cuda)
        self._copied = torch.cuda.Event() if numbers.is_cuda else None
        if self._copied is not None:
            self._copied.record()

    def wait(self) -> list[float]:
        if self._copied is not None:
            self._copied.synchronize()
        return self._numbers.tolist()


def _has_graphs(device: torch.device) -> bool:
    return device.type == "cuda"
