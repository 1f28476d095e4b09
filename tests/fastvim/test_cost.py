"""Counted costs: a small model by hand, and the table in the documentation."""

import subprocess
import sys
from pathlib import Path

import pytest

from fastvim import cost


def test_counts_a_model_by_hand():
    dim, inner, state, rank, taps = 64, 128, 16, 4, 4
    rows, columns, channels = 4, 4, 8
    tokens, steps = rows * columns * channels, rows * channels
    block = tokens * (dim * 2 * inner + inner * dim)  # projections in and out
    block += 2 * tokens * inner * taps  # convolutions
    block += 2 * steps * inner * (rank + 2 * state)  # x_proj
    block += 2 * steps * rank * inner  # dt_proj
    block += 2 * steps * inner * state * 3  # scans
    total = 4 * block + tokens * 16 * 16 * dim + dim * 161
    counted = cost.count("fastchannelvim_micro_patch16")
    assert counted.multiply_adds == total
    assert counted.tokens == tokens
    assert counted.img_size == 64


def test_larger_images_cost_more_and_pooling_saves():
    fast, full = (
        cost.count(f"{name}_tiny_patch16_224", img_size=448) for name in ("fastvim", "vim")
    )
    assert fast.tokens == full.tokens == 784
    assert fast.multiply_adds < 0.8 * full.multiply_adds
    assert fast.multiply_adds > 3.9 * cost.count("fastvim_tiny_patch16_224").multiply_adds


@pytest.mark.slow
def test_the_documented_table_is_what_the_command_prints():
    printed = subprocess.run(
        [sys.executable, "-m", "fastvim.cost"], capture_output=True, text=True, check=True
    ).stdout
    documented = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
    assert printed.strip() in documented
