"""One progress bar over the steps of a run, which becomes plain lines in a log file."""

import time
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

SECONDS_BETWEEN_LINES = 30.0


class StepProgress:
    """Shows loss, learning rate, images per second and the time left, on standard error.

    A terminal gets a moving bar; anything else a line at most twice a minute and one at the end.
    `enabled` is False in all processes but the main one.
    """

    def __init__(self, *, steps: int, first_step: int, batch_size: int, enabled: bool) -> None:
        self.images_per_s = 0.0
        self._steps, self._step, self._batch = steps, first_step, batch_size
        self._last_update = time.monotonic()
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
        rate = self._batch / max(now - self._last_update, 1e-9)
        # Smoothed over about twenty steps; the first step also measures the start-up.
        self.images_per_s += (rate - self.images_per_s) * (0.05 if self.images_per_s else 1.0)
        self._last_update, self._step = now, step
        left = (self._steps - step) * self._batch / self.images_per_s
        self._status = (
            f"loss {loss:.4f}  lr {lr:.2e}  {self.images_per_s:.0f} images/s  "
            f"{timedelta(seconds=round(left))} left"
        )
        self._bar.update(self._task, completed=step, status=self._status)
        if self._lines and now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._print_line(now)

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
