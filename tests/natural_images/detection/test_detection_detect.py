import json

import numpy as np
import pytest
from PIL import Image

from natural_images.detection.detect import detect
from natural_images.detection.outlines import mask_api
from natural_images.errors import NaturalImagesDataError, NaturalImagesValueError


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    (folder / "more").mkdir(parents=True)
    random = np.random.default_rng(0)
    for name, shape in (("wide.png", (30, 200, 3)), ("more/grey.png", (61, 47))):
        Image.fromarray(random.integers(0, 255, shape).astype(np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


def test_detect(trained, photographs, tmp_path):
    output = tmp_path / "found"
    found = detect(trained / "model", [photographs], output=output, score=0.0)
    assert sorted(path.name for path in output.rglob("*.*")) == [
        *("grey.json", "grey.png", "wide.json", "wide.png")
    ]
    grey, wide = found
    assert json.loads((output / "wide.json").read_text()) == wide
    assert json.loads((output / "more" / "grey.json").read_text()) == grey
    assert (wide["width"], wide["height"]) == (200, 30)
    assert wide["objects"]
    for image in found:
        for one in image["objects"]:
            assert (one["class"], one["category_id"]) in {("square", 3), ("cross", 7)}
            mask = mask_api.decode(one["segmentation"])
            assert mask.shape == (image["height"], image["width"])
            x, y, width, height = one["bbox"]
            assert 0 <= x <= x + width <= image["width"] + 0.01
            assert 0 <= y <= y + height <= image["height"] + 0.01
    with Image.open(output / "wide.png") as drawn:
        assert drawn.width == 640


def test_the_least_score_counts(trained, photographs, tmp_path):
    every = detect(trained / "model", [photographs / "wide.png"], output=tmp_path, score=0.0)
    scores = [one["score"] for one in every[0]["objects"]]
    assert scores == sorted(scores, reverse=True)
    least = float(np.median(scores))
    some = detect(trained / "model", [photographs / "wide.png"], output=tmp_path, score=least)
    assert 0 < len(some[0]["objects"]) < len(scores)
    none = detect(trained / "model", [photographs / "wide.png"], output=tmp_path, score=1.0)
    assert none[0]["objects"] == []


def test_what_cannot_be_looked_at(trained, photographs, tmp_path):
    def attempt(*images, **options):
        detect(trained / "model", images, output=tmp_path / "found", **options)

    with pytest.raises(NaturalImagesDataError, match=r"nothing.png: expected an image, got: No su"):
        attempt(photographs / "nothing.png")
    with pytest.raises(NaturalImagesDataError, match=r"notes.txt: expected an image"):
        attempt(photographs / "notes.txt")
    (photographs / "none").mkdir()
    with pytest.raises(NaturalImagesDataError, match="expected images"):
        attempt(photographs / "none")
    with pytest.raises(NaturalImagesValueError, match="different names"):
        attempt(photographs / "wide.png", photographs / "more" / ".." / "wide.jpg")
    with pytest.raises(NaturalImagesValueError, match="score"):
        attempt(photographs, score=2)
