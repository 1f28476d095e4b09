"""The C files are built once on each kind of machine, and PyTorch serves where they can't be."""

import os
import subprocess
import sys

import pytest
from fastvim_kernels.cpu.library import library

PROGRAM = """
import torch
from fastvim_kernels import add_norm
print(add_norm(torch.ones(2, 8), None, torch.ones(8), eps=0.0)[0].sum().item())
"""

pytestmark = pytest.mark.skipif(library() is None, reason="needs a C compiler with OpenMP")


def start(cache, **environment):
    """Run the program in a process of its own, with its library in a folder of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        env=os.environ
        | {"XDG_CACHE_HOME": str(cache), "FASTVIM_BACKEND": "auto", "PYTHONWARNINGS": "default"}
        | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_processes_that_start_together_build_one_library_and_the_next_takes_it(tmp_path):
    processes = [start(tmp_path) for _ in range(3)]
    said = [process.communicate() for process in processes]
    assert all(process.returncode == 0 for process in processes), said
    (built,) = (tmp_path / "fastvim_kernels").iterdir()
    before = built.stat().st_mtime_ns
    assert start(tmp_path).communicate()[0].startswith("16.0")
    assert built.stat().st_mtime_ns == before


def test_another_compiler_builds_another_library(tmp_path):
    for compiler in ("cc", "cc -DANOTHER"):
        start(tmp_path, CC=compiler).communicate()
    assert len(list((tmp_path / "fastvim_kernels").iterdir())) == 2


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [
        ("no-such-compiler", "no-such-compiler"),
        ("cc -include no-such-file.h", "no-such-file"),
        ("cc '", "No closing quotation"),
    ],
    ids=["absent", "failing", "misspelt"],
)
def test_pytorch_serves_where_nothing_can_be_built(tmp_path, compiler, reason):
    process = start(tmp_path, CC=compiler)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert out.startswith("16.0")
    assert "FASTVIM_BACKEND=torch" in err
    assert reason in err
    forced = start(tmp_path, CC=compiler, FASTVIM_BACKEND="native")
    assert "RuntimeError: FASTVIM_BACKEND=native" in forced.communicate()[1]
    assert forced.returncode != 0


def test_a_cache_that_cannot_be_written_to_is_named(tmp_path):
    file = tmp_path / "file"
    file.touch()
    out, err = start(file).communicate()
    assert out.startswith("16.0")
    assert str(file) in err
