"""One progress bar over the steps of a run, which becomes plain lines in a log file."""

import time
from collections import deque
from collections.abc import Iterator
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from fastvim.training.reading import Batch

SECONDS_BETWEEN_LINES = 30.0
STEPS = 50  # that the speed is of: several bursts of batches that a machine's workers end together


class StepProgress:
    """Shows loss, learning rate, images per second and the time left, on standard error.

    The speed is that of the last steps, validation and checkpoints left out. Beside it stands how
    much of their time this process waited for batches, if that is noticeable; a GPU may have been
    computing meanwhile. A terminal gets a moving bar; anything else a line at most
    twice a minute and one at the end. `enabled` is False in all processes but the main one.
    """

    def __init__(self, *, steps: int, first_step: int, batch_size: int, enabled: bool) -> None:
        self._steps, self._first_step, self._batch = steps, first_step, batch_size
        self._step = first_step
        self._times: deque[tuple[float, float]] = deque(maxlen=STEPS)  # of steps: all, waiting
        self._last_update = time.monotonic()
        self._waited = 0.0
        self._last_line = 0.0
        self._status = ""
        console = Console(stderr=True)
        self._lines = enabled and not console.is_terminal
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            console=console,
            disable=not (enabled and console.is_terminal),
        )
        self._task = self._bar.add_task("", total=steps, completed=first_step, status="")

    def update(self, *, step: int, loss: float, lr: float) -> None:
        """Show the state after `step` steps."""
        now = time.monotonic()
        if step == self._first_step + 2:
            self._times.clear()  # the first step also measured the start-up
        self._times.append((max(now - self._last_update, 1e-9), self._waited))
        self._last_update, self._waited, self._step = now, 0.0, step
        seconds, waited = map(sum, zip(*self._times, strict=True))
        left = (self._steps - step) * seconds / len(self._times)
        waiting = f" ({waited / seconds:.0%} waiting)" if waited > 0.05 * seconds else ""
        self._status = (
            f"loss {loss:.4f}  lr {lr:.2e}  {self.images_per_s:.0f} images/s{waiting}  "
            f"{timedelta(seconds=round(left))} left"
        )
        self._bar.update(self._task, completed=step, status=self._status)
        if self._lines and now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._print_line(now)

    @property
    def images_per_s(self) -> float:
        """Of the last steps together, after the second without the first and its start-up."""
        return self._batch * len(self._times) / sum(seconds for seconds, _ in self._times)

    def waiting_for(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Pass the batches on, and count the time until each is there."""
        while True:
            began = time.monotonic()
            batch = next(batches, None)
            self._waited += time.monotonic() - began
            if batch is None:
                return
            yield batch

    def restart_clock(self) -> None:
        """Leave the time since the last step, spent on something else, out of the speed."""
        self._last_update = time.monotonic()

    def _print_line(self, now: float) -> None:
        self._bar.console.print(
            f"step {self._step}/{self._steps}  {self._status}", highlight=False, soft_wrap=True
        )
        self._last_line = now

    def __enter__(self) -> "StepProgress":
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()
        if self._lines and self._status:
            self._print_line(time.monotonic())
