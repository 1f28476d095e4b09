import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from natural_images.errors import NaturalImagesDataError, NaturalImagesValueError
from natural_images.photographs import find_photographs, read_photograph


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    (folder / "more").mkdir(parents=True)
    for name in ("wide.png", "more/tall.JPG", "._wide.png"):
        Image.new("RGB", (6, 4)).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


def test_a_folder_is_searched_and_its_paths_are_kept(folder, tmp_path):
    found = find_photographs([folder, folder / "wide.png"], tmp_path / "out")
    assert found == {"more/tall": folder / "more" / "tall.JPG", "wide": folder / "wide.png"}


def test_results_below_the_folder_are_no_photographs(folder):
    (folder / "out").mkdir()
    shutil.copy(folder / "wide.png", folder / "out" / "wide_overlay.png")
    assert "out/wide_overlay" not in find_photographs([folder], folder / "out")


def test_what_cannot_be_found_or_written_is_refused(folder, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(NaturalImagesDataError, match=r"absent\.jpg: .* got nothing there"):
        find_photographs([folder / "absent.jpg"], out)
    (folder / "none").mkdir()
    with pytest.raises(NaturalImagesDataError, match="got none in"):
        find_photographs([folder / "none"], out)
    with pytest.raises(NaturalImagesValueError, match="--output: expected another folder"):
        find_photographs([folder], folder)
    shutil.copy(folder / "wide.png", tmp_path / "wide.png")
    with pytest.raises(NaturalImagesValueError, match="expected different names"):
        find_photographs([folder, tmp_path / "wide.png"], out)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_read_upright(tmp_path, orientation):
    drawn = np.random.default_rng(0).integers(0, 256, (4, 6, 3)).astype(np.uint8)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(drawn).save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(np.asarray(read_photograph(tmp_path / "turned.png")), upright)


def test_an_image_with_damaged_exif_data_is_read(tmp_path):
    Image.new("RGB", (6, 4)).save(tmp_path / "odd.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert np.asarray(read_photograph(tmp_path / "odd.jpg")).shape == (4, 6, 3)


def test_pixels_as_they_are_stored_where_boxes_are_of_those(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (6, 4)).save(tmp_path / "lying.jpg", exif=exif)
    assert read_photograph(tmp_path / "lying.jpg", upright=False).size == (6, 4)
    assert read_photograph(tmp_path / "lying.jpg").size == (4, 6)


def test_what_is_no_image_is_named(tmp_path):
    with pytest.raises(NaturalImagesDataError, match=r"a\.jpg: expected an image, got: No such"):
        read_photograph(tmp_path / "a.jpg")
