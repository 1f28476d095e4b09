import math

import numpy as np
import pytest

from fastvim.training import Recipe, cosine_schedule
from fastvim.training.schedules import linear_schedule, step_schedule


def test_warmup_holds_both_ends_and_the_cosine_starts_at_the_top_again():
    values = cosine_schedule(1.0, 0.0, steps=7, warmup_steps=3, warmup_start=0.5)
    # 0.5, 0.75, 1 and then (1 + cos(i pi / 4)) / 2
    falling = [1.0, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2]
    np.testing.assert_allclose(values, [0.5, 0.75, 1.0, *falling], rtol=1e-15)


def test_warmup_without_endpoint_reaches_the_top_once():
    values = cosine_schedule(
        1.0, 0.0, steps=4, warmup_steps=2, warmup_start=0.5, warmup_endpoint=False
    )
    np.testing.assert_allclose(values, [0.5, 0.75, 1.0, 0.5], rtol=1e-15)


def test_without_warmup_goes_from_start_towards_end():
    np.testing.assert_allclose(cosine_schedule(0.04, 0.4, steps=2), [0.04, 0.22], rtol=1e-15)


def test_warmup_of_all_steps_leaves_no_cosine():
    np.testing.assert_array_equal(cosine_schedule(2.0, 0.0, steps=3, warmup_steps=3), [0, 1, 2])


def test_warmup_longer_than_the_run_is_refused():
    with pytest.raises(ValueError, match="warmup_steps <= steps, got 4 of 3"):
        cosine_schedule(1.0, 0.0, steps=3, warmup_steps=4)


# Epochs, warm-up epochs, batch, base rate and last rate of the published MAE trainings.
@pytest.mark.parametrize(
    ("epochs", "warmup_epochs", "batch_size", "base_lr", "min_lr"),
    [
        pytest.param(1600, 40, 4096, 1.5e-4, 0.0, id="pre-train"),
        pytest.param(100, 5, 1024, 5e-4, 1e-5, id="fine-tune base"),
        pytest.param(50, 5, 1024, 1e-3, 1e-5, id="fine-tune large and huge"),
        pytest.param(90, 10, 4096, 0.1, 0.0, id="linear probe"),
    ],
)
def test_equals_the_rate_mae_computes_at_every_iteration(
    epochs, warmup_epochs, batch_size, base_lr, min_lr
):
    recipe = Recipe(
        epochs=epochs,
        warmup_epochs=warmup_epochs,
        batch_size=batch_size,
        base_lr=base_lr,
        lr_scale_batch=256,
        min_lr=min_lr,
    )
    per_epoch = 7
    expected = []
    for epoch in range(epochs):
        for iteration in range(per_epoch):
            time = epoch + iteration / per_epoch
            peak = base_lr * batch_size / 256
            if time < warmup_epochs:
                rate = peak * time / warmup_epochs
            else:
                angle = math.pi * (time - warmup_epochs) / (epochs - warmup_epochs)
                rate = min_lr + (peak - min_lr) * 0.5 * (1.0 + math.cos(angle))
            expected.append(rate)
    values = cosine_schedule(
        recipe.lr,
        recipe.min_lr,
        steps=epochs * per_epoch,
        warmup_steps=warmup_epochs * per_epoch,
        warmup_endpoint=False,
    )
    # Close to the end of a cosine that falls to 0, rounding is of the peak and not of the value.
    np.testing.assert_allclose(values, expected, rtol=1e-12, atol=1e-15 * recipe.lr)


def test_a_line_falls_from_the_top_of_the_warmup():
    values = linear_schedule(1.0, 0.0, steps=6, warmup_steps=2, warmup_start=0.5)
    np.testing.assert_allclose(values, [0.5, 1.0, 1.0, 0.75, 0.5, 0.25], rtol=1e-15)


def test_steps_divide_the_rate_by_ten_after_each_milestone():
    values = step_schedule(1.0, milestones=(5, 3), steps=6, warmup_steps=2, warmup_start=0.5)
    np.testing.assert_allclose(values, [0.5, 1.0, 1.0, 0.1, 0.1, 0.01], rtol=1e-15)
