"""Runs of the real workflow that several tests look at."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"


@dataclass(frozen=True)
class Run:
    """A finished run: the folder it ran in and the folder it wrote."""

    folder: Path
    results: Path

    def metrics(self) -> dict:
        return json.loads((self.results / "metrics.json").read_text())


def snakemake(*arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the workflow on two cores with `folder` as the working directory."""
    return subprocess.run(
        [
            *("snakemake", "--cores", "2", "--snakefile", ROOT / "Snakefile"),
            *("--directory", folder),
            *arguments,
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The embedded default from nothing to the report, as the README's first command runs it."""
    folder = tmp_path_factory.mktemp("demo")
    run = snakemake("jumpcp_train", folder=folder)
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-10000:]
    return Run(folder, folder / "results" / "jumpcp")
