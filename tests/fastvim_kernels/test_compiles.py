"""Every kernel through Triton's compiler, which needs no card; the interpreter is more lenient."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

PROGRAM = Path(__file__).parent / "compile_kernels.py"
KERNELS = {
    "add_norm._forward_kernel",
    "add_norm._backward_kernel",
    "conv_pool_forward.slide_forward",
    "conv_pool_forward.segment_forward",
    "conv_pool_backward.slide_backward",
    "selective_scan_kernels.forward",
    "selective_scan_kernels.segment",
    "selective_scan_kernels.combine",
    "selective_scan_kernels.backward",
    "expand_norm_gate._forward_kernel",
    "expand_norm_gate._backward_kernel",
    "sums._sum_kernel",
}


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="the other tests compile the kernels")
def test_all_kernels_compile_for_a_card(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, PROGRAM],
        env={**environment, "TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert set(run.stdout.split()) == KERNELS
