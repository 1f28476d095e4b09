"""The worst pairs come first, with the surest mistakes, and their pictures are the right ones."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread
from PIL import Image

from natural_images.classification.confused import (
    accuracy_by_class,
    confused_pairs,
    draw_confused,
)

ANSWERS = [
    # place, label, class_1, probability_1
    (10, "cat", "dog", 0.6),
    (11, "cat", "dog", 0.9),
    (12, "cat", "cat", 0.8),
    (13, "dog", "dog", 0.5),
    (14, "dog", "dog", 0.7),
    (15, "dog", "dog", 0.6),
    (16, "dog", "cat", 0.4),
    (17, "owl", "cat", 0.95),
]


@pytest.fixture
def predictions() -> pd.DataFrame:
    columns = ["place", "label", "class_1", "probability_1"]
    return pd.DataFrame(ANSWERS, columns=columns).set_index("place")


def test_worst_pairs_first_and_surest_mistakes_first(predictions: pd.DataFrame) -> None:
    first, second, third = confused_pairs(predictions)
    assert (first.label, first.predicted, first.images) == ("cat", "dog", 3)
    assert (first.wrong, first.probability) == ((11, 10), (0.9, 0.6))
    assert first.typical == (14, 15)
    # one mistake each: the surer comes first, though surer than those above
    assert (second.label, second.predicted) == ("owl", "cat")
    assert (third.label, third.predicted) == ("dog", "cat")
    assert confused_pairs(predictions, most=1) == [first]


def test_nothing_confused(predictions: pd.DataFrame, tmp_path: Path) -> None:
    right = predictions[predictions["label"] == predictions["class_1"]]
    assert confused_pairs(right) == []
    draw_confused([], Tinted(), output=tmp_path / "c.svg", title="a title")
    assert "no image was taken for another class" in (tmp_path / "c.svg").read_text()


def test_accuracy_by_class(predictions: pd.DataFrame) -> None:
    table = accuracy_by_class(predictions).set_index("class")
    assert table.loc["cat", ["images", "most_taken_for", "times"]].tolist() == [3, "dog", 2]
    assert table["top1"].to_dict() == pytest.approx({"cat": 1 / 3, "dog": 3 / 4, "owl": 0})
    always = predictions[predictions["label"] == predictions["class_1"]]
    assert accuracy_by_class(always)["most_taken_for"].tolist() == ["", ""]


class Tinted:
    """Images of one colour each, of many sizes, which tell their place."""

    def read(self, index: int) -> Image.Image:
        return Image.new("RGB", (8 * index, 300), (index, 255 - index, 0))


def test_pictures_are_those_of_the_pairs(predictions: pd.DataFrame, tmp_path: Path) -> None:
    pairs = confused_pairs(predictions)
    draw_confused(pairs, Tinted(), output=tmp_path / "c.png", title="a title")  # type: ignore[arg-type]
    pixels = np.round(imread(tmp_path / "c.png")[..., :3] * 255).astype(int)
    index = np.where(
        (pixels[..., 0] + pixels[..., 1] == 255) & (pixels[..., 2] == 0), pixels[..., 0], 0
    )
    shown = {place for place in np.unique(index).tolist() if (index == place).sum() > 10_000} - {0}
    assert shown == {10, 11, 12, 14, 15, 16, 17}  # 12 is the typical cat; 13 is a less sure dog
    places = {place: np.argwhere(index == place).mean(axis=0) for place in shown}
    assert places[11][1] < places[10][1] < places[14][1] < places[15][1]
    assert places[11][0] == pytest.approx(places[14][0], abs=2)
    assert places[11][0] < places[17][0] < places[16][0]
