import json
import re

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
