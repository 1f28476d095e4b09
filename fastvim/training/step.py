"""One optimiser step."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn

from fastvim.training.parameter_groups import parameter_groups
from fastvim.training.plan import StepPlan
from fastvim.training.schedules import cosine_schedule

Batch = dict[str, Tensor]
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
        recipe = plan.recipe
        optimizer = torch.optim.AdamW(parameter_groups(model), lr=recipe.lr, betas=recipe.betas)
        self.plan, self.accelerator = plan, accelerator
        self._model = model
        self._loss, self._on_batch = loss, on_batch
        self._prepared, self._optimizer = accelerator.prepare(model, optimizer)
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._lr = cosine_schedule(
            recipe.lr,
            recipe.min_lr,
            steps=plan.steps,
            warmup_steps=recipe.warmup_epochs * plan.steps_per_epoch,
        )
        self._weight_decay = cosine_schedule(
            recipe.weight_decay, recipe.weight_decay_end, steps=plan.steps
        )

    def take(self, step: int, batches: Iterator[Batch]) -> dict[str, float]:
        """Take step `step` (0-based) on the next parts from `batches`.

        Returns the loss and its metrics, averaged over parts and processes, and the step's
        learning rate, weight decay and gradient norm (before clipping). Raises FloatingPointError,
        in all processes and before the weights change, when loss or gradient is not finite.
        """
        recipe, accelerator = self.plan.recipe, self.accelerator
        self._prepared.train()
        self._optimizer.zero_grad()
        parts = [self._accumulate(step, part, next(batches)) for part in range(recipe.accumulation)]
        means = torch.stack([torch.stack(list(part.values())) for part in parts]).mean(0)
        values = dict(zip(parts[0], accelerator.reduce(means, "mean").tolist(), strict=True))
        values["grad_norm"] = self._clip()
        self._check_finite(step, values)

        decayed, others = self._optimizer.param_groups
        decayed["lr"] = others["lr"] = values["lr"] = float(self._lr[step])
        decayed["weight_decay"] = values["weight_decay"] = float(self._weight_decay[step])
        self._optimizer.step()
        return values

    def validate(self, function: Validate) -> dict[str, float]:
        """Metrics of the unwrapped model in evaluation mode, without gradients."""
        self._model.eval()
        with torch.no_grad():
            return dict(function(self._model))

    def state(self) -> dict[str, object]:
        """Everything that the next step depends on, for a checkpoint."""
        scaler = self.accelerator.scaler
        return {
            "model": self._model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else {},
        }

    def restore(self, state: Mapping[str, dict]) -> None:
        """Continue from what `state` returned."""
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def release(self) -> None:
        """Give the model its own forward back."""
        self.accelerator.unwrap_model(self._prepared, keep_fp32_wrapper=False)
        # Unwrapping leaves a bound method on the instance, which a copy of the model would share.
        vars(self._model).pop("forward", None)

    def _accumulate(self, step: int, part: int, batch: Batch) -> dict[str, Tensor]:
        """Add the gradient of one part; returns its loss and metrics."""
        accelerator, parts = self.accelerator, self.plan.recipe.accumulation
        model_seed, augmentation_seed = self.plan.seeds(step, part)
        set_seed(model_seed)
        device = accelerator.device
        batch = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
        if self._on_batch is not None:
            batch = self._on_batch(batch, torch.Generator().manual_seed(augmentation_seed))
        # Processes exchange gradients once a step, with the last part.
        synchronised = part == parts - 1
        with nullcontext() if synchronised else accelerator.no_sync(self._prepared):
            loss, metrics = self._loss(self._prepared, batch)
            accelerator.backward(loss / parts)
        return {
            name: torch.as_tensor(value, dtype=torch.float32, device=device).detach()
            for name, value in {"loss": loss, **metrics}.items()
        }

    def _clip(self) -> float:
        self.accelerator.unscale_gradients(self._optimizer)
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        largest = self.plan.recipe.clip_grad_norm
        if largest is not None:
            torch.nn.utils.clip_grads_with_norm_(self._parameters, largest, norm)
        return norm.item()

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
