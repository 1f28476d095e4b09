"""Calibration errors that can be worked out by hand."""

from pathlib import Path

import numpy as np
import pytest

from natural_images.classification.reliability import draw_reliability, reliability
from natural_images.errors import NaturalImagesValueError


def test_error_by_hand() -> None:
    # two bins: 0.25 and 0.35 are right once of two, 0.9 never
    found = reliability(np.array([0.25, 0.35, 0.9]), np.array([True, False, False]), bins=2)
    assert found.counts.tolist() == [2, 1]
    np.testing.assert_allclose(found.confidence, [0.3, 0.9])
    np.testing.assert_allclose(found.accuracy, [0.5, 0.0])
    assert found.expected_calibration_error == pytest.approx((2 * 0.2 + 1 * 0.9) / 3)


def test_edges_belong_to_the_bin_below() -> None:
    found = reliability(np.array([0.0, 0.5, 0.5001, 1.0]), np.ones(4, bool), bins=2)
    assert found.counts.tolist() == [2, 2]


def test_calibrated_answers_have_next_to_no_error() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.1, 1, 100_000)
    calibrated = reliability(confidence, rng.uniform(size=100_000) < confidence)
    assert calibrated.expected_calibration_error < 0.01
    overconfident = reliability(confidence, rng.uniform(size=100_000) < confidence - 0.1)
    assert overconfident.expected_calibration_error == pytest.approx(0.1, abs=0.01)
    assert np.isnan(calibrated.accuracy[0])  # below 1/15 there is nothing


def test_picture_tells_the_numbers(tmp_path: Path) -> None:
    found = reliability(np.array([0.25, 0.35, 0.9]), np.array([True, False, False]), bins=2)
    draw_reliability(found, output=tmp_path / "r.svg", title="a title")
    text = (tmp_path / "r.svg").read_text()
    for part in ("a title", "accuracy 33.3%", "mean confidence 50.0%", "error 43.3%"):
        assert f"<!-- {part}" in text or part in text


@pytest.mark.parametrize(
    ("confidence", "right", "message"),
    [([], [], "at least one"), ([0.5], [True, True], "got 1 and 2"), ([1.5], [True], "0 to 1")],
)
def test_what_is_no_probability_is_refused(
    confidence: list[float], right: list[bool], message: str
) -> None:
    with pytest.raises(NaturalImagesValueError, match=message):
        reliability(np.array(confidence), np.array(right))
