import json
from pathlib import Path

import numpy as np
import pytest

from fastvim.training import Recipe, cosine_schedule

GOLDEN = Path(__file__).parents[4] / "shared/golden/tables"
needs_golden = pytest.mark.skipif(not GOLDEN.exists(), reason="the golden tables are not here")


def golden(name: str) -> tuple[dict, np.ndarray]:
    with np.load(GOLDEN / "schedules.npz") as arrays:
        return json.loads((GOLDEN / "schedules.json").read_text())[name], arrays[name]


def test_warmup_holds_both_ends_and_the_cosine_starts_at_the_top_again():
    values = cosine_schedule(1.0, 0.0, steps=7, warmup_steps=3, warmup_start=0.5)
    # 0.5, 0.75, 1 and then (1 + cos(i pi / 4)) / 2
    falling = [1.0, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2]
    np.testing.assert_allclose(values, [0.5, 0.75, 1.0, *falling], rtol=1e-15)


def test_without_warmup_goes_from_start_towards_end():
    np.testing.assert_allclose(cosine_schedule(0.04, 0.4, steps=2), [0.04, 0.22], rtol=1e-15)


def test_warmup_of_all_steps_leaves_no_cosine():
    np.testing.assert_array_equal(cosine_schedule(2.0, 0.0, steps=3, warmup_steps=3), [0, 1, 2])


def test_warmup_longer_than_the_run_is_refused():
    with pytest.raises(ValueError, match="warmup_steps <= steps, got 4 of 3"):
        cosine_schedule(1.0, 0.0, steps=3, warmup_steps=4)


@needs_golden
@pytest.mark.parametrize("name", ["cosine_0", "cosine_1", "cosine_2", "cosine_3"])
def test_equals_published_schedule(name):
    numbers, expected = golden(name)
    per_epoch = numbers["iter_per_epoch"]
    values = cosine_schedule(
        numbers["base_value"],
        numbers["final_value"],
        steps=numbers["scheduling_epochs"] * per_epoch,
        warmup_steps=numbers.get("warmup_epochs", 0) * per_epoch,
        warmup_start=numbers.get("warmup_initial_value", 0.0),
    )
    np.testing.assert_allclose(values, expected, rtol=1e-12, atol=1e-18)


@needs_golden
@pytest.mark.parametrize(("rule", "divisor"), [("linear", 256), ("deit", 512)])
def test_equals_published_schedule_at_the_recipe_peak(rule, divisor):
    numbers, expected = golden(f"cell_get_lr_scheduler_{rule}")
    processes = numbers["cuda_device_count"] * numbers["num_nodes"]
    recipe = Recipe(
        batch_size=numbers["batch_size"] * processes,
        base_lr=numbers["lr"],
        lr_scale_batch=divisor,
        min_lr=numbers["min_lr"],
    )
    per_epoch = numbers["len_train_dataloader"] // processes
    values = cosine_schedule(
        recipe.lr,
        recipe.min_lr,
        steps=numbers["scheduling_epochs"] * per_epoch,
        warmup_steps=numbers["warmup_epochs"] * per_epoch,
        warmup_start=numbers["warmup_initial_lr"],
    )
    np.testing.assert_allclose(values, expected, rtol=1e-12)


@needs_golden
def test_equals_published_weight_decay():
    numbers, expected = golden("cell_get_wd_scheduler")
    values = cosine_schedule(
        numbers["weight_decay"], numbers["weight_decay_end"], steps=len(expected)
    )
    np.testing.assert_allclose(values, expected, rtol=1e-12)
