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


def test_no_photograph_is_replaced_and_no_result_looked_at(trained, photographs):
    def attempt(image, output):
        found = detect(trained / "model", [image], output=output, score=1.0)
        return [one["image"] for one in found]

    before = (photographs / "wide.png").read_bytes()
    for image in (photographs, photographs / "wide.png"):
        with pytest.raises(NaturalImagesValueError, match=r"--output: expected another folder"):
            attempt(image, photographs)
    assert (photographs / "wide.png").read_bytes() == before
    named = [str(photographs / name) for name in ("more/grey.png", "wide.png")]
    for _ in range(2):
        assert attempt(photographs, photographs / "found") == named


def test_an_image_that_cannot_be_read_is_passed_over(trained, photographs, tmp_path, caplog):
    (photographs / "broken.jpg").write_bytes(b"no image")
    (photographs / "._wide.png").write_bytes(b"of a Mac")
    found = detect(trained / "model", [photographs], output=tmp_path / "found")
    assert [one["width"] for one in found] == [47, 200]
    assert "broken.jpg: expected an image, got: not an image file" in caplog.text
    for image in photographs.rglob("*.png"):
        image.write_bytes(b"")
    with pytest.raises(NaturalImagesDataError, match="none of 3 images can be read"):
        detect(trained / "model", [photographs], output=tmp_path / "found")


def test_four_colours_and_one(trained, tmp_path):
    random = np.random.default_rng(0)
    files = [tmp_path / f"{mode}.jpg" for mode in ("CMYK", "L")]
    for file, shape in zip(files, ((40, 60, 4), (60, 40)), strict=True):
        drawn = random.integers(0, 255, shape).astype(np.uint8)
        Image.fromarray(drawn, mode=file.stem).save(file)
    found = detect(trained / "model", files, output=tmp_path / "found")
    assert [(one["width"], one["height"]) for one in found] == [(60, 40), (40, 60)]


def test_what_cannot_be_looked_at(trained, photographs, tmp_path):
    def attempt(*images, **options):
        detect(trained / "model", images, output=tmp_path / "found", **options)

    with pytest.raises(NaturalImagesDataError, match=r"nothing.png: expected an image or a fol"):
        attempt(photographs / "nothing.png")
    with pytest.raises(NaturalImagesDataError, match=r"notes.txt: expected an image"):
        attempt(photographs / "notes.txt")
    with pytest.raises(NaturalImagesValueError, match="score"):
        attempt(photographs, score=2)


def test_a_photograph_is_looked_at_upright_and_at_another_size(trained, photographs, tmp_path):
    lying = tmp_path / "lying.jpg"
    with Image.open(photographs / "wide.png") as image:
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned by a quarter
        image.save(lying, exif=exif)
    (found,) = detect(trained / "model", [lying], output=tmp_path / "out", score=0.0, size=101)
    assert (found["width"], found["height"]) == (30, 200)
    assert found["objects"]
    with pytest.raises(NaturalImagesValueError, match="size: expected at least 1 px, got 0"):
        detect(trained / "model", [lying], output=tmp_path / "out", size=0)
