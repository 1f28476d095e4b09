from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from natural_images.errors import NaturalImagesDataError, NaturalImagesValueError
from natural_images.segmentation.ade20k import (
    IGNORED,
    check_annotations,
    open_ade20k,
    read_labels,
)

DATA = Path(__file__).parents[4] / "shared" / "data" / "natural_ade20k_sceneparsing150"


def test_labels_start_at_zero_and_unlabelled_pixels_are_ignored(areas):
    source = open_ade20k(areas, split="training")
    assert (len(source), source.classes) == (6, ("grey", "red", "green"))
    assert source.synonyms[1] == ("red", "synonym")
    assert source.name(2) == "training_0002"
    image, labels = source.read(2)
    assert image.shape == (40, 56, 3)
    assert labels.dtype == np.uint8
    assert set(np.unique(labels)) == {0, 1, 2, IGNORED}
    assert (labels[0] == IGNORED).all()
    red = image[labels == 1].mean(axis=0)
    assert red[0] > 150 > red[1]


def test_validation_is_the_other_folder(areas):
    source = open_ade20k(areas, split="validation")
    assert [source.name(i) for i in range(len(source))] == [f"validation_{i:04d}" for i in range(3)]


def test_folders_without_splits_are_the_same_for_both(areas):
    flat = areas.parent / "flat"
    flat.mkdir()
    for kind in ("images", "annotations"):
        (areas / kind / "training").rename(flat / kind)
    for split in ("training", "validation"):
        assert len(open_ade20k(flat, split=split)) == 6


def test_without_a_table_classes_are_numbered(areas):
    (areas / "objectInfo3.txt").unlink()
    source = open_ade20k(areas, split="training", classes=3)
    assert (source.classes, source.synonyms) == (("class 1", "class 2", "class 3"), ())
    assert len(open_ade20k(areas, split="training").classes) == 150


def test_a_number_of_classes_that_the_table_does_not_have_is_refused(areas):
    with pytest.raises(
        NaturalImagesDataError, match=r"expected 150 classes, got 3 in .*objectInfo"
    ):
        open_ade20k(areas, split="training", classes=150)


def test_a_table_of_another_number_is_named_where_it_lies(areas):
    (areas / "objectInfo3.txt").rename(areas.parent / "objectInfo3.txt")
    with pytest.raises(
        NaturalImagesDataError, match=r"got 3 in \S+/objectInfo3\.txt\. .*remove the table"
    ) as error:
        open_ade20k(areas, split="training", classes=4)
    assert str(areas.parent / "objectInfo3.txt") in str(error.value)


def test_a_folder_without_images_says_what_is_known(areas):
    for kind in ("images", "annotations"):
        for split in ("training", "validation"):
            (areas / kind / split).rename(areas / kind / f"{split}_2016")
    with pytest.raises(NaturalImagesDataError, match=r"got none.*images/training/\*\.jpg"):
        open_ade20k(areas, split="training")


def test_a_damaged_table_is_refused(areas):
    (areas / "objectInfo3.txt").write_text("Idx\tName\n1\tgrey\n3\tred\n")
    with pytest.raises(NaturalImagesDataError, match=r"objectInfo3\.txt: expected a header"):
        open_ade20k(areas, split="training")


def test_an_image_without_annotation_is_named(areas):
    (areas / "annotations" / "training" / "training_0004.png").unlink()
    with pytest.raises(
        NaturalImagesDataError, match=r"training_0004\.jpg: expected its annotation"
    ):
        open_ade20k(areas, split="training")


def test_an_annotation_without_image_is_said_and_passed_over(areas, caplog):
    (areas / "images" / "training" / "training_0004.jpg").unlink()
    assert len(open_ade20k(areas, split="training")) == 5
    assert "1 annotations have no image" in caplog.text


def test_two_images_of_one_name_are_refused(areas):
    (areas / "images" / "training" / "training_0001.png").write_bytes(b"")
    with pytest.raises(NaturalImagesDataError, match="expected one image of this name"):
        open_ade20k(areas, split="training")


def test_a_missing_split_says_what_there_is(areas):
    for kind in ("images", "annotations"):
        (areas / kind / "validation").rename(areas / f"{kind}_away")
    with pytest.raises(
        NaturalImagesDataError, match=r"images/validation, got images/training alone"
    ):
        open_ade20k(areas, split="validation")
    with pytest.raises(NaturalImagesValueError, match="got 'val'"):
        open_ade20k(areas, split="val")


def test_check_finds_a_class_out_of_range(areas):
    file = areas / "annotations" / "training" / "training_0005.png"
    labels = np.array(Image.open(file))
    labels[7, 9] = 4
    Image.fromarray(labels).save(file)
    source = open_ade20k(areas, split="training")
    with pytest.raises(
        NaturalImagesDataError, match=r"training_0005\.png.*got 4 in row 7, column 9"
    ):
        check_annotations(source, workers=2)


def test_check_finds_an_annotation_of_another_size(areas):
    file = areas / "annotations" / "training" / "training_0003.png"
    Image.open(file).resize((28, 20), Image.Resampling.NEAREST).save(file)
    source = open_ade20k(areas, split="training")
    with pytest.raises(NaturalImagesDataError, match=r"expected 56 × 40 px as in .*got 28 × 20"):
        check_annotations(source, workers=1)


def test_an_annotation_of_an_image_that_is_not_upright(areas):
    file = areas / "images" / "training" / "training_0003.jpg"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    with Image.open(file) as image:
        image.save(file, exif=exif)
    source = open_ade20k(areas, split="training")
    with pytest.raises(NaturalImagesDataError, match=r"expected 40 × 56 px .*EXIF"):
        source.read(3)


@pytest.mark.parametrize("kind", ["images", "annotations"])
def test_check_finds_a_truncated_file(areas, kind):
    file = next((areas / kind / "training").glob("training_0002.*"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    source = open_ade20k(areas, split="training")
    with pytest.raises(
        NaturalImagesDataError, match=rf"{file.name}: expected an? .*(cannot be read|truncated)"
    ):
        check_annotations(source, workers=1)


def test_a_colour_image_is_no_annotation(areas):
    with pytest.raises(NaturalImagesDataError, match="got a file of mode RGB"):
        read_labels(areas / "images" / "training" / "training_0000.jpg", 3)


def test_a_palette_keeps_its_numbers(tmp_path):
    stored = np.array([[0, 1, 2]], np.uint8)
    image = Image.fromarray(stored)
    image.putpalette(list(range(255, -1, -1)) * 3)
    image.save(tmp_path / "palette.png")
    assert read_labels(tmp_path / "palette.png", 2).tolist() == [[255, 0, 1]]


@pytest.mark.data
@pytest.mark.skipif(not DATA.exists(), reason="ADE20K's samples are not in ../shared/data")
def test_published_samples():
    source = open_ade20k(DATA / "sampleData", split="validation", classes=150)
    check_annotations(source, workers=1)
    assert source.classes[:3] == ("wall", "building", "sky")
    assert len(set(source.classes)) == 150
    image, labels = source.read(0)
    assert image.shape == (512, 683, 3)
    # SOURCE.md of the data: values of the annotation, which start at 1.
    assert np.unique(labels).tolist() == [0, 1, 2, 4, 6, 9, 17, 255]


@pytest.mark.data
@pytest.mark.skipif(not DATA.exists(), reason="ADE20K's samples are not in ../shared/data")
def test_published_pair_of_a_raw_and_a_converted_annotation():
    """The benchmark's labels are those that its mapping makes of the full data set's."""
    folder = DATA / "convertFromADE"
    rows = (folder / "mapFromADE.txt").read_text().splitlines()
    mapping = np.zeros(65536, np.uint8)
    for known, raw_class in (map(int, row.split()) for row in rows if row.strip()):
        mapping[raw_class] = known
    with Image.open(folder / "ADE_train_00000970_raw.png") as image:
        raw = np.asarray(image).astype(np.int64)
    converted = Image.fromarray(mapping[raw[..., 0] // 10 * 256 + raw[..., 1]])
    labels = read_labels(folder / "ADE_train_00000970_challenge.png", 150)
    height, width = labels.shape
    nearest = np.asarray(converted.resize((width, height), Image.Resampling.NEAREST))
    assert np.array_equal(labels, np.where(nearest == 0, IGNORED, nearest - 1))


@pytest.mark.data
@pytest.mark.skipif(not DATA.exists(), reason="ADE20K's samples are not in ../shared/data")
def test_palette_annotations_of_another_project():
    folder = DATA / "mmseg_pseudo_dataset" / "gts"
    found = set()
    for file in sorted(folder.glob("*.png")):
        labels = read_labels(file, 7)
        assert labels.shape == (128, 256)
        found |= set(np.unique(labels).tolist())
    assert found == {0, 1, 2, IGNORED}
