"""Drawn shapes: both formats say the same, masks are exact, parts share nothing."""

import json

import numpy as np
import pytest
from PIL import Image
from skimage import data

from natural_images.errors import NaturalImagesValueError
from natural_images.shape_scenes import (
    MOST_SHAPES,
    SEEN,
    SHAPES,
    draw_scene,
    photographs,
)
from natural_images.shapes import run_lengths, write_shapes

TRAIN, VAL, SIZE = 40, 12, 96


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    output = tmp_path_factory.mktemp("shapes") / "shapes"
    write_shapes(output, train=TRAIN, val=VAL, size=SIZE)
    return output


def instances(folder, part):
    return json.loads((folder / f"coco/annotations/instances_{part}2017.json").read_text())


def decode(segmentation):
    """A mask from COCO's run lengths, written out from their definition."""
    values = [value for i, n in enumerate(segmentation["counts"]) for value in [i % 2] * n]
    return np.array(values, bool).reshape(segmentation["size"][::-1]).T


@pytest.mark.parametrize(("part", "long"), [("train", "training"), ("val", "validation")])
def test_both_formats_hold_the_same_images_and_masks(folder, part, long):
    written = instances(folder, part)
    pictures = sorted((folder / "ade20k/images" / long).iterdir())
    labels = sorted((folder / "ade20k/annotations" / long).iterdir())
    assert len(pictures) == len(labels) == len(written["images"]) == {"train": 40, "val": 12}[part]
    for image, picture, label in zip(written["images"], pictures, labels, strict=True):
        assert picture.stem == label.stem
        same = folder / f"coco/{part}2017" / image["file_name"]
        assert same.read_bytes() == picture.read_bytes()
        drawn = np.ones((SIZE, SIZE), np.uint8)
        for shape in written["annotations"]:
            if shape["image_id"] == image["id"]:
                mask = decode(shape["segmentation"])
                assert (drawn[mask] == 1).all(), "masks overlap"
                drawn[mask] = shape["category_id"] + 1
        with Image.open(label) as opened:
            assert opened.mode == "L"
            np.testing.assert_array_equal(np.asarray(opened), drawn)


def test_boxes_and_areas_are_those_of_the_masks(folder):
    for shape in instances(folder, "train")["annotations"]:
        mask = decode(shape["segmentation"])
        left, top, width, height = shape["bbox"]
        assert mask.sum() == shape["area"] > 0
        assert mask[top : top + height, left : left + width].sum() == shape["area"]
        for edge in (mask[top], mask[top + height - 1], mask[:, left], mask[:, left + width - 1]):
            assert edge.any()


def test_ids_are_unique_and_every_class_is_drawn(folder):
    both = [instances(folder, part) for part in ("train", "val")]
    for kind, count in (("images", TRAIN + VAL), ("annotations", None)):
        ids = [entry["id"] for written in both for entry in written[kind]]
        assert len(set(ids)) == len(ids) == (count or len(ids))
    for written in both:
        assert [category["name"] for category in written["categories"]] == list(SHAPES)
        assert {shape["category_id"] for shape in written["annotations"]} == {1, 2, 3, 4, 5}


def test_names_and_counts_lie_beside_the_labels(folder):
    lines = (folder / "ade20k/objectInfo150.txt").read_text().splitlines()
    rows = [line.split("\t") for line in lines]
    assert rows[0] == ["Idx", "Ratio", "Train", "Val", "Name"]
    assert [row[-1] for row in rows[1:]] == ["background", *SHAPES]
    assert rows[1][2:4] == [str(TRAIN), str(VAL)]
    assert sum(float(row[1]) for row in rows[1:]) == pytest.approx(1, abs=1e-3)


def test_shapes_stand_out_and_can_be_seen():
    random = np.random.default_rng(1)
    counts = []
    for _ in range(30):
        scene = draw_scene(photographs("train"), 128, random)
        counts.append(len(scene.classes))
        areas = scene.masks.sum(axis=(1, 2))
        # the smallest, a triangle in a circle of 28 px, has some 255 px
        assert areas.min() >= SEEN * 230
        assert scene.masks.sum(axis=0).max() == 1
        everything = scene.masks.any(axis=0)
        for mask in scene.masks:
            inside = scene.image[mask].mean(axis=0)
            # as far as a tenth of what white and black are apart, from what is around it
            assert np.abs(inside - scene.image[~everything].mean(axis=0)).max() > 25
    assert min(counts) == 1
    assert max(counts) == MOST_SHAPES


def test_parts_of_photographs_do_not_overlap():
    astronaut, chelsea = 2, 3
    for number, whole in ((astronaut, data.astronaut()), (chelsea, data.chelsea())):
        parts = [photographs(part)[number] for part in ("train", "val")]
        np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)
        assert parts[0].shape[1] == pytest.approx(2 * parts[1].shape[1], abs=2)


def test_run_lengths_begin_with_zeros_and_go_down_columns():
    mask = np.array([[0, 1], [1, 1], [0, 0]], bool)
    assert run_lengths(mask) == [1, 1, 1, 2, 1]
    assert run_lengths(np.ones((2, 2), bool)) == [0, 4]
    assert run_lengths(np.zeros((2, 2), bool)) == [4]


def test_images_depend_on_seed_and_place_alone(folder, tmp_path):
    write_shapes(tmp_path, train=3, val=2, size=SIZE)  # an empty folder may be filled
    for name in ("training/ADE_train_00000003", "validation/ADE_val_00000002"):
        again, first = (f / f"ade20k/images/{name}.jpg" for f in (tmp_path, folder))
        assert again.read_bytes() == first.read_bytes()
    write_shapes(tmp_path / "other", train=1, val=1, size=SIZE, seed=1)
    name = "ade20k/images/training/ADE_train_00000001.jpg"
    assert (tmp_path / "other" / name).read_bytes() != (folder / name).read_bytes()


def test_wrong_numbers_and_full_folders_are_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(NaturalImagesValueError, match="already there"):
        write_shapes(tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "mine"
    with pytest.raises(NaturalImagesValueError, match="size to be at least 64, got 32"):
        write_shapes(tmp_path / "small", size=32)
    with pytest.raises(NaturalImagesValueError, match="val to be at least 1, got 0"):
        write_shapes(tmp_path / "none", val=0)
