"""Flat fields: estimated against known truth, published ones read, both applied."""

import logging

import numpy as np
import pytest
from scipy.io import savemat

from cellpipe.errors import CellpipeDataError, CellpipeValueError
from cellpipe.illumination import Illumination, illumination
from cellpipe.plate import Plate


def vignette(shape, depth=0.3):
    y, x = (np.linspace(-1, 1, side) for side in shape)
    field = 1 - depth * (0.5 * y[:, None] ** 2 + 0.7 * (x[None] - 0.2) ** 2)
    return (field / field.mean()).astype(np.float32)


def test_estimate_is_within_five_percent_of_truth(drawn_plate):
    """Fields of 160 px show few cells each, and there are 24 of them: harder than a plate."""
    estimate = Illumination.load(drawn_plate.illumination)
    truth = np.load(drawn_plate.truth / "illumination" / "SIM0001.npz")
    for channel in ("DNA", "Mito", "AGP", "ER", "RNA"):
        error = np.abs(estimate.flatfield[channel] / truth[channel] - 1)
        uncorrected = np.abs(truth[channel] - 1)
        assert np.percentile(error, 95) < 0.05, channel
        assert error.mean() < 0.5 * uncorrected.mean(), channel


def test_correct_undoes_offset_and_field():
    field = vignette((40, 60))
    light = np.random.default_rng(0).uniform(50, 500, (1, 40, 60)).astype(np.float32)
    flat = Illumination({"DNA": field}, offset=100.0)
    np.testing.assert_allclose(flat.correct(100 + field * light, ("DNA",)), light, rtol=1e-4)
    assert flat.correct(np.zeros((1, 40, 60), np.uint16), ("DNA",)).min() == 0


def test_save_and_load(tmp_path):
    flat = Illumination({"DNA": vignette((8, 8)), "offset": vignette((8, 8), 0.1)}, offset=3.5)
    flat.save(tmp_path / "flat.npz")
    read = Illumination.load(tmp_path / "flat.npz")
    assert read.offset == 3.5
    assert list(read.flatfield) == ["DNA", "offset"]
    np.testing.assert_array_equal(read.flatfield["DNA"], flat.flatfield["DNA"])


def test_too_few_sites_stay_uncorrected_and_say_so(drawn_plate, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        illumination(drawn_plate.sites, output=tmp_path / "flat.npz", minimum_sites=1000)
    assert "24 sites are too few" in caplog.text
    for field in Illumination.load(tmp_path / "flat.npz").flatfield.values():
        assert (field == 1).all()


@pytest.mark.parametrize("suffix", [".npy", ".mat"])
def test_published_field_is_used(drawn_plate, tmp_path, suffix):
    plate = Plate.open(drawn_plate.sites)
    field = 3 * vignette((160, 160)).astype(np.float64)
    path = tmp_path / f"SIM_IllumDNA{suffix}"
    if suffix == ".npy":
        np.save(path, field)
    else:
        savemat(path, {"Image": field})
    illumination(
        drawn_plate.sites, output=tmp_path / "flat.npz", published={"DNA": path}, minimum_sites=99
    )
    read = Illumination.load(tmp_path / "flat.npz")
    np.testing.assert_allclose(read.flatfield["DNA"], vignette((160, 160)), rtol=1e-5)
    assert set(read.flatfield) == set(plate.channels)


def test_published_errors_name_file_and_shape(drawn_plate, tmp_path):
    wrong = tmp_path / "wrong.npy"
    np.save(wrong, np.ones((3, 3)))
    pickled = tmp_path / "pickled.npy"
    np.save(pickled, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    for path, message in ((wrong, r"wrong.npy: expected .*\(160, 160\)"), (pickled, "pickled.npy")):
        with pytest.raises(CellpipeDataError, match=message):
            illumination(drawn_plate.sites, output=tmp_path / "flat.npz", published={"DNA": path})
    with pytest.raises(CellpipeValueError, match=r"\['GFP'\]"):
        illumination(drawn_plate.sites, output=tmp_path / "flat.npz", published={"GFP": wrong})
    assert not (tmp_path / "flat.npz").exists()
