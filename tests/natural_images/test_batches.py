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


def test_launched_processes(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert launched_processes() == 1
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert launched_processes() == 8
