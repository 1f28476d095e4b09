"""The published batch on any number of processes."""

import pytest

from fastvim.training import Recipe
from natural_images.batches import launched_processes, share_batch
from natural_images.errors import NaturalImagesValueError


@pytest.mark.parametrize(
    ("batch", "at_once", "processes", "parts"),
    [
        (1024, 256, 1, 4),
        (1024, 256, 4, 1),
        (1024, 256, 8, 1),
        (1024, None, 8, 1),
        (1024, 100, 1, 16),  # 11 parts would be enough, but 1024 has no such divisor
        (4096, 256, 8, 2),
        (6, 4, 2, 1),
        (6, 1, 2, 3),
    ],
)
def test_the_batch_stays_whatever_the_processes(batch, at_once, processes, parts):
    recipe = share_batch(Recipe(batch_size=batch), at_once, processes)
    assert (recipe.batch_size, recipe.accumulation) == (batch, parts)


def test_an_accumulation_of_the_recipe_is_the_least(caplog):
    with caplog.at_level("INFO"):
        recipe = share_batch(Recipe(batch_size=64, accumulation=4), 32, 2)
    assert recipe.accumulation == 4
    assert "64 images: 2 processes × 4 accumulated parts × 8 images" in caplog.text


def test_a_batch_that_does_not_divide_says_what_would():
    with pytest.raises(NaturalImagesValueError, match=r"multiple of the 6 processes.*4 or 8"):
        share_batch(Recipe(batch_size=1024), None, 6)
    with pytest.raises(NaturalImagesValueError, match=r"divisor of the 32 images.*got 3"):
        share_batch(Recipe(batch_size=64, accumulation=3), None, 2)


@pytest.mark.parametrize(
    ("batch", "at_once", "processes", "parts"),
    [
        (1024, 256, 4, 1),
        (36, 12, 1, 3),
        (18, 6, 1, 3),
        (18, 9, 1, 3),  # two parts of nine images would be odd
        (30, 5, 1, 15),  # so would six parts of five
        (20, 10, 2, 1),
        (12, 3, 2, 3),
    ],
)
def test_parts_are_pairs_of_images_that_are_mixed(batch, at_once, processes, parts):
    recipe = share_batch(Recipe(batch_size=batch), at_once, processes, in_pairs=True)
    assert recipe.accumulation == parts
    assert batch // processes // parts % 2 == 0


@pytest.mark.parametrize(
    ("recipe", "at_once", "processes", "message"),
    [
        ({"batch_size": 63}, None, 1, r"batch_size: .*got 63 \(63 over 1 process\). Take 64, or"),
        ({"batch_size": 10}, 4, 2, r"batch_size: .*got 5 \(10 over 2 processes\). Take 12, or"),
        ({"batch_size": 64}, 1, 1, r"data.images_at_once: expected at least 2.*got 1"),
        ({"batch_size": 12, "accumulation": 4}, None, 1, r"divisor of the 6 pairs.*Take 3"),
    ],
)
def test_odd_parts_cannot_be_mixed(recipe, at_once, processes, message):
    with pytest.raises(NaturalImagesValueError, match=message):
        share_batch(Recipe(**recipe), at_once, processes, in_pairs=True)
    share_batch(Recipe(**recipe), at_once, processes)


def test_launched_processes(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert launched_processes() == 1
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert launched_processes() == 8
