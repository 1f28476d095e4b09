"""Runs of the real workflow that several tests look at."""

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Run:
    """A finished run: the folder it ran in and the folder it wrote."""

    folder: Path
    results: Path


def run_snakemake(*arguments: object, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run the workflow on two cores with `folder` as the working directory."""
    command = ["snakemake", "--cores", "2", "--snakefile", ROOT / "Snakefile"]
    return subprocess.run(
        [str(word) for word in [*command, "--directory", folder, *arguments]],
        cwd=ROOT,
        # Unless told, figures would try for a screen and libraries for every core.
        env={**os.environ, "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="session")
def snakemake() -> Callable[..., subprocess.CompletedProcess[str]]:
    return run_snakemake


@pytest.fixture(scope="session")
def read_json() -> Callable[[Path], dict]:
    return lambda path: json.loads(path.read_text())


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def data() -> Path:
    """Folder of real images; what lies in it is for each test to check."""
    return ROOT.parent / "shared" / "data"


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The embedded default from nothing to the report, as the README's first command runs it."""
    folder = tmp_path_factory.mktemp("demo")
    run = run_snakemake("jumpcp_train", folder=folder)
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-10000:]
    return Run(folder, folder / "results" / "jumpcp")
