"""The digits on disk are scikit-learn's, split without overlap, and never replace anything."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from natural_images.digits import write_digits
from natural_images.errors import NaturalImagesValueError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("digits") / "images"
    write_digits(output, size=16)
    return output


def test_every_digit_is_there_once_under_its_class(folder: Path) -> None:
    found = {int(file.stem): int(file.parent.name) for file in folder.glob("*/*/*.png")}
    assert len(list(folder.glob("*/*/*.png"))) == len(found)
    assert found == dict(enumerate(load_digits().target))


def test_a_fifth_of_each_class_validates(folder: Path) -> None:
    total = Counter(load_digits().target.tolist())
    held_out = Counter(int(file.parent.name) for file in folder.glob("val/*/*.png"))
    assert sum(held_out.values()) == 360
    for digit, count in total.items():
        assert held_out[digit] == pytest.approx(count / 5, abs=1)


def test_images_are_the_digits_enlarged(folder: Path) -> None:
    """Averages of 2 × 2 px give the published levels back, up to bicubic overshoot."""
    images = load_digits().images
    errors = []
    for file in folder.glob("val/*/*.png"):
        with Image.open(file) as opened:
            assert (opened.mode, opened.size) == ("RGB", (16, 16))
            pixels = np.asarray(opened)[..., 0] / 255
        levels = pixels.reshape(8, 2, 8, 2).mean(axis=(1, 3))
        errors.append(np.abs(levels - images[int(file.stem)] / 16).mean())
    assert max(errors) < 0.1


def test_same_call_writes_same_bytes(folder: Path, tmp_path: Path) -> None:
    write_digits(tmp_path, size=16)  # an empty folder may be filled
    files = sorted(path.relative_to(folder) for path in folder.glob("*/*/*.png"))
    assert files == sorted(path.relative_to(tmp_path) for path in tmp_path.glob("*/*/*.png"))
    assert all((folder / f).read_bytes() == (tmp_path / f).read_bytes() for f in files[::50])


def test_what_is_there_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(NaturalImagesValueError, match="already there"):
        write_digits(tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "mine"
    with pytest.raises(NaturalImagesValueError, match="at least 8 px, got 7"):
        write_digits(tmp_path / "small", size=7)
