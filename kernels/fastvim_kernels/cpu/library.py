"""Build the C files of this folder once on each kind of machine, and load them."""

import ctypes
import functools
import hashlib
import os
import shlex
import subprocess
import tempfile
import warnings
from pathlib import Path

WIDTH = 32
"""Channels of a task where the kernels go along tokens: two lines of the cache."""

PART = 32
"""Tokens whose gradients of the parameters are summed one after another, as one part of the sum."""

FLAGS = (
    *("-std=gnu11", "-O3", "-march=native", "-fopenmp", "-shared", "-fPIC"),
    # nothing reads errno or the processor's flags, and without them loops become vectors
    *("-fno-math-errno", "-fno-trapping-math"),
    *(f"-DWIDTH={WIDTH}", f"-DPART={PART}"),
)


@functools.cache
def library() -> ctypes.CDLL | None:
    """Functions on float32 tensors, or None, with a warning, where there is no compiler for them.

    The compiler is that of the environment variable CC, or `cc`. What it builds lies in
    `~/.cache/fastvim_kernels` or, if XDG_CACHE_HOME is set, in that folder; under a name that tells
    sources, compiler and processor, as machines of different kinds may share a home.
    """
    try:
        return ctypes.CDLL(str(_built()))
    except (OSError, RuntimeError, ValueError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        warnings.warn(
            "FastVim computes on this CPU in PyTorch, which takes 1.3 to 3 times as long as in C: "
            f"{said.strip()}. Install a C compiler with OpenMP (gcc), or name one in the "
            "environment variable CC; FASTVIM_BACKEND=torch silences this",
            stacklevel=2,
        )
        return None


def _built() -> Path:
    """Path of the shared library, which is built if it is not there."""
    compiler = shlex.split(os.environ.get("CC") or "cc")
    sources = sorted(Path(__file__).parent.glob("*.[ch]"))
    # all that the compiler knows of itself and of this processor
    known = _run([*compiler, *FLAGS, "-dM", "-E", "-x", "c", os.devnull])
    key = hashlib.sha256("\0".join([known, *FLAGS, *map(Path.read_text, sources)]).encode())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastvim_kernels"
    path = cache / f"{key.hexdigest()[:16]}.so"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            built = Path(folder) / path.name
            files = [str(source) for source in sources if source.suffix == ".c"]
            _run([*compiler, *FLAGS, *files, "-lm", "-o", str(built)])
            built.replace(path)
    return path


def _run(command: list[str]) -> str:
    return subprocess.run(
        command, check=True, capture_output=True, text=True, errors="replace"
    ).stdout
