"""Who may import whom, and what an import may cost."""

import subprocess
import sys

import pytest


def test_layers_hold():
    """fastvim_kernels <- fastvim <- cellpipe, as pyproject.toml declares."""
    run = subprocess.run(["lint-imports"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("fastvim", ["transformers", "cellpipe"]),
        ("fastvim_kernels", ["triton", "fastvim"]),
        ("cellpipe.cli", ["torch", "scanpy", "zarr", "skimage"]),
    ],
)
def test_imports_are_cheap(module, forbidden):
    code = f"import sys, {module}; print([m for m in {forbidden!r} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
