"""A figure is written whole, in a format that is known, and the same each time."""

from pathlib import Path

import pytest

from natural_images import figures
from natural_images.errors import NaturalImagesValueError


def draw(output: Path, fail: bool = False) -> bytes:
    with figures.figure(2, 1, output) as figure:
        figure.subplots().plot([0, 1])
        if fail:
            raise RuntimeError("amid drawing")
    return output.read_bytes()


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_same_data_give_the_same_file(suffix: str, tmp_path: Path) -> None:
    assert draw(tmp_path / f"a.{suffix}") == draw(tmp_path / f"b.{suffix}")


def test_a_failed_figure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="amid drawing"):
        draw(tmp_path / "a.png", fail=True)
    with pytest.raises(NaturalImagesValueError, match=r"expected a .png or .svg, got '.jpg'"):
        draw(tmp_path / "a.jpg")
    assert not list(tmp_path.iterdir())


def test_long_names_are_cut() -> None:
    assert figures.shortened("x" * 24) == "x" * 24
    assert figures.shortened("x" * 25) == "x" * 23 + "…"
