import json
import pickle
import shutil

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from natural_images.detection.augment import fit
from natural_images.detection.coco import open_coco
from natural_images.detection.outlines import mask_api
from natural_images.errors import NaturalImagesDataError, NaturalImagesValueError


def whole(images, index):
    """Masks of an image's instances at its own size."""
    height, width = images.size(index)
    placement = fit((height, width), max(height, width))
    return [
        mask_api.decode(images.outlines.place(place, placement))
        for place in images.instances(index)
    ]


def test_open_coco(coco):
    images = open_coco(coco, split="train")
    assert images.classes == ("square", "cross")
    assert images.category_ids == (3, 7)
    assert [images.name(i) for i in range(3)] == ["0.png", "1.png", "2.png"]
    assert images.labels[list(images.instances(0))].tolist() == [0, 1]
    assert images.read(0).size == (48, 40)
    polygon, runs = whole(images, 0)
    rows, columns = np.nonzero(polygon)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (6, 17, 4, 15)
    rows, columns = np.nonzero(runs)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (20, 29, 8, 19)
    assert runs.sum() == 120


def test_crowds_and_images_without_boxes_do_not_train(coco):
    images = open_coco(coco, split="train")
    assert len(images.instances(1)) == 1  # of two, one is a crowd
    assert len(images.instances(2)) == 0
    assert images.with_instances().tolist() == [0, 1, 3, 4, 5]
    assert len(images) == 6


def test_a_box_without_width_is_left_out_and_said(write_coco, described, draw_square, caplog):
    flat = draw_square(90, 12, 4, 4, 8, bbox=[4, 4, 0.5, 8], segmentation=[])
    described["annotations"].append(flat)
    images = open_coco(write_coco(described))
    assert len(images.instances(2)) == 0
    assert "1 boxes are narrower than a pixel" in caplog.text


def test_it_travels_to_a_worker(coco):
    images = pickle.loads(pickle.dumps(open_coco(coco)))
    assert np.array_equal(whole(images, 0), whole(open_coco(coco), 0))


def changed(key, value, place=0, table="annotations"):
    def change(described):
        described[table][place][key] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed("id", 6), "annotation 6: expected its id once"),
        (changed("id", 10, 1, "images"), "image 10: expected its id once"),
        (changed("id", 3, 0, "categories"), "category 3: expected its id once"),
        (changed("image_id", 99), "annotation 5: expected an image of the file, got 99"),
        (changed("category_id", 1), "annotation 5: expected a category of the file, got 1"),
        (changed("bbox", [40, 6, 12, 12]), r"annotation 5: expected a box inside of .*48 × 40 px"),
        (changed("bbox", [4, 6, -2, 12]), "annotation 5: expected a box inside"),
        (changed("bbox", [4, 6, 12]), "annotation 5: expected bbox as"),
        (changed("segmentation", []), "annotation 5: expected a polygon of at least three points"),
        (changed("segmentation", [[1, 2, 3, 4]]), "annotation 5: expected a polygon of at least"),
        (changed("segmentation", [[1, 2, 3, 4, 5, 6, 7]]), "annotation 5: .*an odd number"),
        (changed("segmentation", [1, 2, 3, 4, 5, 6]), "annotation 5: .*a list of polygons .*got 1"),
        (changed("segmentation", [[1, 2, 3, 4, 5, "6"]]), "annotation 5: .*a list of polygons"),
        (changed("segmentation", [[1, 2, 3, 4, 5, float("nan")]]), "annotation 5: .*a list of pol"),
        (
            changed("segmentation", {"size": [40, 48], "counts": "abc"}),
            "annotation 5: expected run lengths of its mask",
        ),
        (changed("area", None), "annotation 5: expected the area of its mask"),
        (
            changed("segmentation", {"size": [40, 48], "counts": [3, 4]}),
            "annotation 5: expected run lengths of its mask",
        ),
        (
            changed("segmentation", {"size": [2, 2], "counts": [3, 1]}),
            "annotation 5: expected run lengths of its image's size",
        ),
        (changed("height", 0, 0, "images"), "image 10: expected a height and a width"),
        (
            lambda d: d["annotations"][1].pop("bbox"),
            r"annotations\[1\] \(id 6\): expected the keys",
        ),
        (lambda d: d["annotations"][1].pop("area"), r"\(id 6\): .*got none of \['area'\]"),
        (lambda d: d["annotations"][1].pop("id"), r"annotations\[1\]: expected the keys"),
        (lambda d: d.pop("annotations"), "got no list 'annotations'"),
        (lambda d: d["categories"].clear(), "expected categories, got none"),
    ],
)
def test_mistakes_are_named_before_training(write_coco, described, change, message):
    folder = write_coco(described)
    change(described)
    file = folder / "annotations" / "instances_train2017.json"
    file.write_text(json.dumps(described))
    with pytest.raises(NaturalImagesDataError, match=message) as caught:
        open_coco(folder)
    assert str(file) in str(caught.value)


def test_absent_and_wrong_files(coco):
    (coco / "train2017" / "4.png").unlink()
    with pytest.raises(NaturalImagesDataError, match=r"got none of \['4.png'\]"):
        open_coco(coco)
    Image.new("RGB", (40, 48)).save(coco / "val2017" / "0.png")
    images = open_coco(coco, split="val")
    with pytest.raises(NaturalImagesDataError, match=r"0.png: expected 48 × 40 px .*got 40 × 48"):
        images.read(0)
    (coco / "val2017" / "0.png").write_bytes(b"no image")
    with pytest.raises(NaturalImagesDataError, match=r"0.png: expected an image"):
        images.read(0)
    shutil.rmtree(coco / "val2017")
    with pytest.raises(NaturalImagesDataError, match="val2017: expected the folder"):
        open_coco(coco, split="val")
    (coco / "annotations" / "instances_val2014.json").write_text("{}")
    with pytest.raises(NaturalImagesDataError, match=r"got instances_val2014.json, instances_val2"):
        open_coco(coco, split="val")
    (coco / "annotations" / "instances_train2017.json").write_text("{")
    with pytest.raises(NaturalImagesDataError, match="expected COCO's instances as JSON"):
        open_coco(coco)
    with pytest.raises(NaturalImagesDataError, match="expected one such file, got nothing"):
        open_coco(coco / "annotations")
    with pytest.raises(NaturalImagesValueError, match="expected 'train' or 'val'"):
        open_coco(coco, split="test")


@pytest.mark.data
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools'
def test_real_annotations_have_the_masks_of_pycocotools(data, tmp_path):
    source = data("natural_coco_val2017_persons") / "coco"
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val2017").mkdir()
    file = tmp_path / "annotations" / "instances_val2017.json"
    shutil.copy(source / "test_coco.SUBSET.json", file)
    for image in source.glob("*.jpg"):
        shutil.copy(image, tmp_path / "val2017")
    images, reference = open_coco(tmp_path, split="val"), COCO(str(file))
    assert len(images) == 3
    for index in range(3):
        images.read(index)
        truth = reference.loadAnns(reference.getAnnIds(int(images.ids[index]), iscrowd=False))
        expected = [reference.annToMask(row) for row in truth]
        for wanted, mask in zip(expected, whole(images, index), strict=True):
            # float32 coordinates take a pixel of the edge to the other side now and then
            assert (wanted != mask).sum() <= 0.003 * wanted.sum()
