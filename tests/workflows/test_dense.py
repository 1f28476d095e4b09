"""Segmentation and detection, run for real on drawn shapes, to the scores they claim."""

import csv

import pytest

pytestmark = pytest.mark.slow


def run(snakemake, folder, workflow):
    """The embedded default with all that the workflow can make of it, and a report."""
    targets = (f"{workflow}_train", f"{workflow}_eval")
    for arguments in ((), ("--report", folder / "report.html")):
        done = snakemake(*arguments, "--", *targets, folder=folder)
        assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-10000:]
    return folder


@pytest.fixture(scope="module")
def ade20k(snakemake, tmp_path_factory):
    return run(snakemake, tmp_path_factory.mktemp("ade20k"), "ade20k")


@pytest.fixture(scope="module")
def coco(snakemake, tmp_path_factory):
    return run(snakemake, tmp_path_factory.mktemp("coco"), "coco")


def classes(evaluation):
    with (evaluation / "per_class.csv").open() as file:
        return [row["class"] for row in csv.DictReader(file)]


def test_a_segmenter_knows_shapes_that_it_has_not_seen(ade20k, read_json):
    evaluation = ade20k / "results/ade20k/evaluations/fastvim"
    metrics = read_json(evaluation / "metrics.json")
    assert metrics["images"] == 200
    # one that says background everywhere has a sixth of 0.83
    assert metrics["miou"] >= 0.6
    assert metrics["pixel_accuracy"] >= 0.92
    assert classes(evaluation)[:2] == ["background", "disc"]
    assert len(list((evaluation / "overlays").glob("*.png"))) == 8


def test_a_detector_finds_shapes_that_it_has_not_seen(coco, read_json):
    evaluation = coco / "results/coco/evaluations/fastvim"
    metrics = read_json(evaluation / "metrics.json")
    assert metrics["images"] == 200
    assert metrics["bbox"]["AP50"] >= 0.6
    assert metrics["segm"]["AP50"] >= 0.6
    assert classes(evaluation) == ["disc", "square", "triangle", "star", "cross"]
    assert len(read_json(evaluation / "detections.json")) == metrics["detections"]
    assert len(list((evaluation / "pictures").glob("*.png"))) == 12


def test_reports_hold_the_pictures(ade20k, coco):
    for folder, picture in ((ade20k, "ADE_val_00000001.png"), (coco, "000000001001.png")):
        report = (folder / "report.html").read_text()
        assert picture in report
        assert "per_class.csv" in report
