"""What each step sees: every random choice as a function of the seed, the step and the rank.

Nothing random is carried from one step to the next, so a run can resume at any step with its
weights and optimiser alone, and gets there by skipping indices rather than by loading samples.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fastvim.training.recipe import Recipe


@dataclass(frozen=True)
class StepPlan:
    """Order of `samples` samples for one of `processes` processes, the one of this `rank`.

    An epoch is a permutation of the samples cut into whole batches; the remainder is left to other
    epochs. A batch is cut into ``recipe.accumulation`` parts, and each part among the processes.
    """

    recipe: Recipe
    samples: int
    processes: int
    rank: int

    def __post_init__(self) -> None:
        batch, shares = self.recipe.batch_size, self.processes * self.recipe.accumulation
        if batch % shares:
            raise ValueError(
                f"Recipe key 'batch_size': expected a multiple of {self.processes} processes × "
                f"{self.recipe.accumulation} accumulated parts, got {batch}"
            )
        if self.samples < batch:
            raise ValueError(
                f"Training data: expected at least one batch of {batch} samples, got "
                f"{self.samples}. Lower batch_size or add data"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in an epoch."""
        return self.samples // self.recipe.batch_size

    @property
    def steps(self) -> int:
        """Optimiser steps in the whole run."""
        if self.recipe.steps is not None:
            return self.recipe.steps
        return self.steps_per_epoch * self.recipe.epochs

    @property
    def warmup_steps(self) -> int:
        """Those of them in which the learning rate rises."""
        if self.recipe.warmup_steps is not None:
            return self.recipe.warmup_steps
        return self.steps_per_epoch * self.recipe.warmup_epochs

    def validates_after(self, done: int) -> bool:
        """Whether the model is validated when `done` steps are."""
        every = self.recipe.validate_every_steps
        # By steps the last would be missed where they do not divide; by epochs none is left over
        # unless the recipe counts steps.
        return done % (every or self.steps_per_epoch) == 0 or done == self.steps

    def epoch(self, step: int) -> int:
        """Epoch of a 0-based step, counted from 1."""
        return step // self.steps_per_epoch + 1

    def items(self, first_step: int) -> Iterator[tuple[np.ndarray, int]]:
        """Indices and seed of this rank's parts, in order, from step `first_step` (0-based) on.

        The indices are those of the part's samples; the seed, below 2³², is for reading them.
        """
        batch = self.recipe.batch_size
        epoch, order = -1, np.empty(0, dtype=np.int64)
        for step in range(first_step, self.steps):
            if step // self.steps_per_epoch != epoch:
                epoch = step // self.steps_per_epoch
                order = np.random.default_rng([self.recipe.seed, epoch]).permutation(self.samples)
            start = step % self.steps_per_epoch * batch
            shares = order[start : start + batch].reshape(
                self.recipe.accumulation, self.processes, -1
            )
            for part, indices in enumerate(shares[:, self.rank]):
                yield indices, self.seeds(step, part)[2]

    def seeds(self, step: int, part: int) -> tuple[int, int, int]:
        """Seeds, below 2³², of one part of one step: for model, on_batch and reading samples."""
        sequence = np.random.SeedSequence([self.recipe.seed, step, part, self.rank])
        model, augmentation, samples = sequence.generate_state(3, np.uint32).tolist()
        return model, augmentation, samples
