import json

import pandas as pd
import pytest
from PIL import Image

from natural_images.detection.average_precision import NAMES, average_precision
from natural_images.detection.evaluate import evaluate
from natural_images.errors import NaturalImagesDataError, NaturalImagesValueError


def test_evaluate(trained, tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "old.png").write_text("of an earlier evaluation")
    metrics = evaluate(trained / "model", trained / "coco", output=tmp_path)
    assert metrics == json.loads((tmp_path / "metrics.json").read_text())
    assert tuple(metrics["bbox"]) == tuple(metrics["segm"]) == NAMES
    assert (metrics["images"], metrics["split"], metrics["size_px"]) == (4, "val", 48)

    results = json.loads((tmp_path / "detections.json").read_text())
    assert len(results) == metrics["detections"] > 0
    assert set(results[0]) == {"image_id", "category_id", "bbox", "score", "segmentation"}
    assert {row["image_id"] for row in results} <= {10, 11, 12, 13}
    truth = trained / "coco" / "annotations" / "instances_val2017.json"
    for kind in ("bbox", "segm"):
        # The file alone gives the same numbers.
        assert average_precision(truth, tmp_path / "detections.json", kind) == metrics[kind]

    table = pd.read_csv(tmp_path / "per_class.csv")
    assert table["class"].tolist() == ["square", "cross"]
    assert table["box_AP"].mean() == pytest.approx(metrics["bbox"]["AP"], abs=1e-5)
    pictures = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert pictures == ["0.png", "1.png", "2.png", "3.png"]
    with Image.open(tmp_path / "pictures" / "0.png") as picture:
        assert picture.width > 1280


def test_a_part_of_the_training_images(trained, tmp_path):
    metrics = evaluate(
        trained / "model", trained / "coco", output=tmp_path, split="train", limit=2, workers=1
    )
    assert (metrics["images"], metrics["images_available"]) == (2, 6)


def test_other_categories_and_wrong_options(trained, write_coco, described, tmp_path):
    described["categories"][0]["id"] = 9
    for annotation in described["annotations"]:
        annotation["category_id"] = 9 if annotation["category_id"] == 7 else 3
    folder = write_coco(described, "val")
    with pytest.raises(NaturalImagesDataError, match=r"expected the model's 2 categories"):
        evaluate(trained / "model", folder, output=tmp_path / "out")
    with pytest.raises(NaturalImagesValueError, match="limit"):
        evaluate(trained / "model", folder, output=tmp_path / "out", limit=0)
    with pytest.raises(NaturalImagesDataError):
        evaluate(tmp_path / "none", folder, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()
