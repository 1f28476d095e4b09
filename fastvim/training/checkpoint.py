"""Checkpoints that are whole or not there, in a folder that holds one run."""

import json
import os
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

KEPT = 2
_NAME = re.compile(r"step-(\d+)\.pt")


@dataclass(frozen=True)
class CheckpointFolder:
    """The last two checkpoints of a run, ``step-<optimiser steps done>.pt``.

    fingerprint
        Facts that must be equal for a run to continue another; values are JSON scalars.
    """

    path: Path
    fingerprint: Mapping[str, Any]

    def file(self, step: int) -> Path:
        """Path of the checkpoint after `step` steps."""
        return self.path / f"step-{step:08d}.pt"

    def save(self, step: int, state: Mapping[str, Any]) -> Path:
        """Write `state` as the checkpoint after `step` steps, then drop all but the last two.

        The file is written under another name, forced to the disk, and renamed: a kill or a full
        disk at any moment leaves the checkpoints before it as they were.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        target = self.file(step)
        content = {"step": step, "fingerprint": json.dumps(dict(self.fingerprint)), **state}
        temporary = target.with_name(f".{target.name}.partial")
        try:
            with temporary.open("wb") as file:
                torch.save(content, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(self.path)
        self._prune(step)
        return target

    def load_latest(self) -> dict[str, Any] | None:
        """Read the newest checkpoint that is whole, tensors on the CPU; None for a new run.

        A damaged file is passed over with a warning. Raises ValueError when every one is damaged,
        or when the run that wrote it differs from this one in its fingerprint.
        """
        found = self._steps()
        for step in sorted(found, reverse=True):
            content = _read(found[step])
            if content is not None:
                self._check_fingerprint(found[step], json.loads(content["fingerprint"]))
                return content
        if found:
            raise ValueError(
                f"{self.path}: none of the checkpoints {sorted(p.name for p in found.values())} "
                "can be read. Delete the folder to start the run again"
            )
        return None

    def _steps(self) -> dict[int, Path]:
        if not self.path.is_dir():
            return {}
        matches = ((_NAME.fullmatch(path.name), path) for path in self.path.iterdir())
        return {int(match[1]): path for match, path in matches if match}

    def _prune(self, step: int) -> None:
        """Keep this checkpoint and the one before; later ones are damaged, partial ones killed."""
        for partial in self.path.glob(".step-*.partial"):
            partial.unlink(missing_ok=True)
        found = self._steps()
        kept = sorted(s for s in found if s <= step)[-KEPT:]
        for other in found.keys() - set(kept):
            found[other].unlink(missing_ok=True)

    def _check_fingerprint(self, path: Path, written: dict[str, Any]) -> None:
        # Through JSON, as the written one went, so that tuples compare equal to lists.
        ours = json.loads(json.dumps(dict(self.fingerprint)))
        keys = sorted(k for k in written.keys() | ours.keys() if written.get(k) != ours.get(k))
        if keys:
            differences = "; ".join(
                f"{key}: expected {written.get(key)!r} (the checkpoint's), got {ours.get(key)!r}"
                for key in keys
            )
            raise ValueError(
                f"{path} belongs to another run. {differences}. Restore these values to continue "
                f"it, or train in another folder, or delete {self.path} to start again"
            )


def _read(path: Path) -> dict[str, Any] | None:
    try:
        # torch.load does not look at the archive's checksums.
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"{damaged} does not match its checksum")
        return torch.load(path, map_location="cpu", weights_only=True)
    # What a damaged archive raises depends on where the damage is.
    except Exception as error:
        warnings.warn(
            f"Checkpoint {path} is damaged and passed over: {error}", RuntimeWarning, stacklevel=3
        )
        return None


def _sync_folder(path: Path) -> None:
    """Force a rename to the disk; not every system can open a folder for it."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
