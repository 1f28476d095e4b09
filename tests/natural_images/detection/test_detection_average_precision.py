import json
import re

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from natural_images.detection.average_precision import NAMES, average_precision, scores
from natural_images.detection.outlines import as_text, mask_api
from natural_images.errors import NaturalImagesDataError


def found(annotation, score, **changes):
    runs = mask_api.merge(mask_api.frPyObjects(annotation["segmentation"], 40, 48))
    return {
        "image_id": annotation["image_id"],
        "category_id": annotation["category_id"],
        "bbox": annotation["bbox"],
        "segmentation": as_text(runs),
        "score": score,
        **changes,
    }


@pytest.fixture
def truth(described, draw_square):
    described["annotations"] = [draw_square(i, 10 + i, 4, 4, 20) for i in range(4)]
    return described


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_all_found_and_nothing_found(truth, kind):
    all_found = [found(row, 0.9) for row in truth["annotations"]]
    numbers = average_precision(truth, all_found, kind)
    assert tuple(numbers) == NAMES
    assert numbers["AP"] == numbers["AP75"] == numbers["AR1"] == numbers["APs"] == 1
    assert numbers["APl"] is None  # there is no large object
    assert average_precision(truth, [], kind)["AP"] == 0
    assert "area" not in all_found[0]  # what the caller gave is left as it is


def test_a_surer_mistake_costs_by_hand(truth):
    rows = [found(row, 0.5) for row in truth["annotations"][:2]]
    rows.append(found(truth["annotations"][2], 0.9, bbox=[30, 20, 8, 8]))
    # Precision 2/3 up to a recall of 2/4, at 51 of the 101 points.
    assert average_precision(truth, rows, "bbox")["AP50"] == pytest.approx(2 / 3 * 51 / 101)
    assert average_precision(truth, rows, "segm")["AP50"] == pytest.approx(76 / 101)


def test_by_category_and_by_image(truth, draw_square):
    truth["annotations"].append(draw_square(9, 10, 20, 10, 10, 7))
    rows = [found(row, 0.5) for row in truth["annotations"][:2]]
    result = scores(truth, rows, "bbox", images=[10, 11])
    assert result.by_category == {3: pytest.approx(1), 7: 0}
    assert result.numbers["AP"] == pytest.approx(0.5)
    assert scores(truth, rows, "bbox", images=[11]).by_category[7] is None


def test_crowds_neither_help_nor_harm(truth):
    truth["annotations"][0]["iscrowd"] = 1
    rows = [found(row, 0.9) for row in truth["annotations"]]
    assert average_precision(truth, rows, "bbox")["AP"] == pytest.approx(1)
    assert average_precision(truth, rows[1:], "bbox")["AP"] == pytest.approx(1)


def test_a_file_without_iscrowd_is_read_and_one_without_area_named(truth, tmp_path):
    file = tmp_path / "truth.json"
    del truth["annotations"][0]["iscrowd"]
    truth["annotations"][1]["iscrowd"] = None
    file.write_text(json.dumps(truth))
    rows = [found(row, 0.9) for row in truth["annotations"]]
    assert average_precision(file, rows, "bbox")["AP"] == pytest.approx(1)
    del truth["annotations"][1]["area"]
    file.write_text(json.dumps(truth))
    with pytest.raises(NaturalImagesDataError, match=r"truth.json: annotation 1: .* area"):
        average_precision(file, rows, "bbox")
    truth["annotations"][1]["area"] = 400
    with pytest.raises(NaturalImagesDataError, match=r"got 1 other images, \[99\]"):
        average_precision(truth, [{**rows[0], "image_id": 99}], "bbox")


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools'
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_the_numbers_of_pycocotools(kind, tmp_path, draw_square):
    random = np.random.default_rng(0)
    sides = {"height": 200, "width": 200}
    truth = {
        "images": [{"id": i, "file_name": f"{i}.png", **sides} for i in range(8)],
        "categories": [{"id": number, "name": str(number)} for number in (1, 44, 90, 91)],
        "annotations": [],
    }
    rows = []
    for number in range(1, 81):
        x, y, side = (int(value) for value in random.integers((0, 0, 4), (90, 90, 110)))
        category = int(random.choice((1, 44, 90)))  # of 91 there is none
        one = draw_square(number, number % 7, x, y, side, category, iscrowd=int(number % 9 == 0))
        truth["annotations"].append(one)
        for score in random.random(3):
            wider = side + abs(round(random.normal(0, 0.1 * side)))
            other = draw_square(0, number % 8, x, y, wider, category)
            runs = mask_api.merge(mask_api.frPyObjects(other["segmentation"], 200, 200))
            rows.append(found(one, score, bbox=other["bbox"], segmentation=as_text(runs)))
    file = tmp_path / "truth.json"
    file.write_text(json.dumps(truth))
    reference = COCO(str(file))
    left_out = "bbox" if kind == "segm" else "segmentation"
    results = reference.loadRes([{k: v for k, v in r.items() if k != left_out} for r in rows])
    evaluation = COCOeval(reference, results, kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    numbers = average_precision(truth, rows, kind)
    assert list(numbers.values()) == pytest.approx(evaluation.stats.tolist(), abs=1e-12)
    assert 0.1 < numbers["AP"] < 0.9


@pytest.mark.data
def test_the_golden_numbers_and_those_of_pycocotools(data):
    folder = data("natural_coco_ap_golden")
    truth = folder / "cocoapi" / "instances_val2014_100.json"
    results = folder / "cocoapi" / "instances_val2014_fakebbox100_results.json"
    numbers = average_precision(truth, results, "bbox")
    stated = re.findall(r"\b(A[PR]\w*) (0\.\d{4})", (folder / "SOURCE.md").read_text())
    assert [name for name, _ in stated] == list(NAMES)
    assert [f"{numbers[name]:.4f}" for name, _ in stated] == [value for _, value in stated]

    reference = COCO(str(truth))
    evaluation = COCOeval(reference, reference.loadRes(str(results)), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert list(numbers.values()) == pytest.approx(evaluation.stats.tolist(), abs=1e-12)
