"""Training curves as CSV and TensorBoard, without duplicate steps after a resume."""

import csv
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType


class Curves:
    """Curves of one run: ``train.csv``, ``validation.csv`` and ``tensorboard/`` in `directory`.

    directory
        Made when absent.
    resumed_step
        Steps that the checkpoint has behind it; what an interrupted run wrote past them is removed.
    """

    def __init__(self, directory: Path, *, resumed_step: int) -> None:
        # Takes seconds to import, and only the main process of a run needs it.
        from torch.utils.tensorboard import SummaryWriter

        directory.mkdir(parents=True, exist_ok=True)
        self._tables = {
            name: _Table(directory / f"{name}.csv", resumed_step=resumed_step)
            for name in ("train", "validation")
        }
        self._tensorboard = SummaryWriter(
            str(directory / "tensorboard"), purge_step=resumed_step + 1
        )

    def write(self, table: str, step: int, values: Mapping[str, float]) -> None:
        """Add `values` after `step` steps to the "train" or the "validation" curves."""
        self._tables[table].write(step, values)
        for name, value in values.items():
            self._tensorboard.add_scalar(f"{table}/{name}", value, step)

    def sync(self) -> None:
        """Force everything written so far to the disk, before a checkpoint that relies on it."""
        for table in self._tables.values():
            table.sync()
        self._tensorboard.flush()

    def __enter__(self) -> "Curves":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for table in self._tables.values():
            table.close()
        self._tensorboard.close()


class _Table:
    """One CSV; the first column is the step, the first row names the rest."""

    def __init__(self, path: Path, *, resumed_step: int) -> None:
        if path.exists():
            _truncate(path, resumed_step)
        self._path = path
        self._file = path.open("a+", newline="")
        self._file.seek(0)
        header = next(csv.reader(self._file), None)
        self._columns = header[1:] if header else None
        self._file.seek(0, os.SEEK_END)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        writer = csv.writer(self._file)
        if self._columns is None:
            self._columns = list(values)
            writer.writerow(["step", *self._columns])
        if set(values) != set(self._columns):
            raise ValueError(
                f"{self._path}: expected the values {self._columns} at step {step}, got "
                f"{list(values)}. Metrics must have the same names in every step"
            )
        writer.writerow([step, *(values[name] for name in self._columns)])
        self._file.flush()

    def sync(self) -> None:
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def _truncate(path: Path, last_step: int) -> None:
    """Drop rows past `last_step` and a line that a kill left half written."""
    lines = path.read_text().splitlines(keepends=True)
    header, rows = lines[:1], [line for line in lines[1:] if line.endswith("\n")]
    kept = [line for line in rows if int(line.split(",", 1)[0]) <= last_step]
    # A header without rows may be half written, and the next row writes it again.
    text = "".join(header + kept) if kept else ""
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text)
    temporary.replace(path)
