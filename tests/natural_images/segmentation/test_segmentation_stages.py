"""Training, evaluation and use of a tiny segmenter, on areas whose class the colour tells."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from natural_images.errors import NaturalImagesDataError, NaturalImagesValueError
from natural_images.experiment import ModelSection
from natural_images.segmentation.ade20k import read_labels
from natural_images.segmentation.evaluate import evaluate
from natural_images.segmentation.experiment import load_experiment
from natural_images.segmentation.segment import segment
from natural_images.segmentation.segmenter import load_segmenter
from natural_images.segmentation.train import train

YAML = """
model:
  name: fastvim_tiny_patch16_dense
  options: {embed_dim: 16, depth: 2, patch_size: 4, out_indices: [0, 1], residual_stream: true}
heads: {channels: 32, pool_scales: [1, 2], auxiliary_channels: 16, auxiliary_map: 0}
data: {path: areas}
augment: {crop: 32, scale: [160, 40], ratio: [0.9, 1.2], photometric: false}
test: {crop: 32, stride: 24, short_side: 40, long_side: 160}
recipe:
  steps: 40
  warmup_steps: 4
  validate_every_steps: 20
  batch_size: 4
  lr_scale_batch: 4
  base_lr: 5.0e-3
  num_workers: 1
"""


def experiment_of(folder, *overrides):
    (folder / "areas.yaml").write_text(YAML)
    place = f"data.path={json.dumps(str(folder / 'areas'))}"
    return load_experiment(folder / "areas.yaml", [place, *overrides])


@pytest.fixture(scope="module")
def trained(tmp_path_factory, draw_areas):
    """A folder of images, with the model and the run of an experiment on them."""
    folder = tmp_path_factory.mktemp("trained")
    draw_areas(folder / "areas")
    train(experiment_of(folder), folder / "model", folder / "run")
    return folder


def test_training_learns_and_says_so(trained):
    curve = pd.read_csv(trained / "run" / "validation.csv")
    assert curve["step"].tolist() == [20, 40]
    assert curve["miou"].iloc[-1] > 0.5
    losses = pd.read_csv(trained / "run" / "train.csv")
    assert {"decode_loss", "auxiliary_loss", "accuracy"} <= set(losses.columns)
    assert losses["loss"].iloc[-5:].mean() < 0.6 * losses["loss"].iloc[:5].mean()


def test_the_folder_tells_how_the_model_is_used(trained):
    model, info = load_segmenter(trained / "model", "cpu")
    assert info.classes == ("grey", "red", "green")
    assert (info.crop, info.test.stride, info.test.short_side) == (32, 24, 40)
    assert not model.training


def test_evaluation_agrees_with_the_validation_of_training(trained, tmp_path):
    found = evaluate(trained / "model", trained / "areas", output=tmp_path / "out", workers=1)
    curve = pd.read_csv(trained / "run" / "validation.csv").iloc[-1]
    for name in ("miou", "mean_accuracy", "pixel_accuracy"):
        assert found[name] == pytest.approx(curve[name], abs=1e-6)
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == json.loads(
        json.dumps(found)
    )
    table = pd.read_csv(tmp_path / "out" / "per_class.csv")
    assert table["class"].tolist() == ["grey", "red", "green"]
    assert table["iou"].mean() == pytest.approx(found["miou"], abs=1e-4)
    # The black row of each image has no label.
    assert table["labelled"].sum() == 3 * 39 * 56
    names = {file.name for file in (tmp_path / "out" / "overlays").iterdir()}
    assert names == {f"validation_{number:04d}.png" for number in range(3)}


def test_options_change_how_images_are_segmented(trained, tmp_path):
    found = evaluate(
        *(trained / "model", trained / "areas"),
        output=tmp_path / "out",
        split="training",
        limit=2,
        mode="whole",
        flip=True,
        ratios=[0.75, 1.0],
        precision="bfloat16",
        workers=1,
    )
    assert (found["images"], found["images_available"]) == (2, 6)
    test = found["test"]
    assert (test["mode"], test["flip"], test["ratios"]) == ("whole", True, (0.75, 1.0))
    assert (test["crop"], test["stride"]) == (32, 24)
    assert found["miou"] > 0.4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": 40}, "stride: expected"),
        ({"limit": 0}, "limit: expected at least 1"),
        ({"workers": 0}, "workers: expected at least 1"),
        ({"precision": "half"}, "precision: expected one of"),
    ],
)
def test_wrong_options_of_evaluation_are_refused(trained, tmp_path, options, message):
    with pytest.raises(NaturalImagesValueError, match=message):
        evaluate(trained / "model", trained / "areas", output=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_images_with_other_classes_are_not_evaluated(trained, areas, tmp_path):
    table = areas / "objectInfo3.txt"
    table.write_text(table.read_text().replace("green", "blue"))
    with pytest.raises(NaturalImagesDataError, match="got 'blue' where class 3 is 'green'"):
        evaluate(trained / "model", areas, output=tmp_path / "out")
    # The tables that are around have one class's names in another order.
    table.write_text(table.read_text().replace("blue, synonym", "emerald, green"))
    evaluate(trained / "model", areas, output=tmp_path / "out", limit=1)
    table.unlink()
    assert evaluate(trained / "model", areas, output=tmp_path / "out")["classes"] == 3


def test_unlabelled_images_are_no_score(trained, areas, tmp_path):
    for file in (areas / "annotations" / "validation").iterdir():
        Image.new("L", (56, 40)).save(file)
    with pytest.raises(NaturalImagesDataError, match="all of 3 annotations are 0"):
        evaluate(trained / "model", areas, output=tmp_path / "out")


def test_segment_writes_labels_shares_and_a_picture(trained, tmp_path):
    images = trained / "areas" / "images" / "validation"
    reports = segment(trained / "model", [images], output=tmp_path / "out", workers=1)
    assert len(reports) == 3
    first = json.loads((tmp_path / "out" / "validation_0000.json").read_text())
    assert first == reports[0]
    assert (first["width"], first["height"]) == (56, 40)
    shares = {row["class"]: row["share"] for row in first["classes"]}
    assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
    assert next(iter(shares)) == "grey"
    labels = read_labels(tmp_path / "out" / "validation_0000_labels.png", 3)
    assert labels.shape == (40, 56)
    for row in first["classes"]:
        assert (labels == row["label"] - 1).mean() == pytest.approx(row["share"], abs=1e-5)
        assert 1 / 3 <= row["probability"] <= 1
    assert Image.open(tmp_path / "out" / "validation_0000_overlay.png").size[0] > 1000


def test_segment_takes_any_size(trained, tmp_path):
    random = np.random.default_rng(0)
    for height, width in ((7, 9), (30, 300)):
        pixels = random.integers(0, 256, (height, width, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{height}.png")
    files = [tmp_path / "7.png", tmp_path / "30.png"]
    reports = segment(trained / "model", files, output=tmp_path / "out")
    assert [report["height"] for report in reports] == [7, 30]


def test_segment_passes_over_a_damaged_image(trained, tmp_path, caplog):
    folder = tmp_path / "images"
    shutil.copytree(trained / "areas" / "images" / "validation", folder)
    (folder / "validation_0001.jpg").write_bytes(b"no image")
    reports = segment(trained / "model", [folder], output=tmp_path / "out")
    assert len(reports) == 2
    assert "validation_0001.jpg: expected an image" in caplog.text
    with pytest.raises(NaturalImagesDataError, match="expected an image, got: not an image"):
        segment(trained / "model", [folder / "validation_0001.jpg"], output=tmp_path / "out")


def test_results_do_not_lie_among_the_images(trained):
    images = trained / "areas" / "images" / "validation"
    with pytest.raises(NaturalImagesValueError, match=r"--output: expected another folder"):
        segment(trained / "model", [images], output=images)


def test_segment_reads_what_photographs_come_as(trained, tmp_path):
    random = np.random.default_rng(0)
    grey = random.integers(0, 256, (20, 30)).astype(np.uint8)
    folder = tmp_path / "été 写真 $"
    folder.mkdir()
    Image.fromarray(grey).save(folder / "grey 写真 5$.JPG")
    Image.fromarray(grey.astype(np.uint16) * 257).save(folder / "deep.PNG")
    Image.merge("CMYK", [Image.fromarray(grey)] * 4).save(folder / "cmyk.Jpeg")
    Image.merge("LA", [Image.fromarray(grey)] * 2).save(folder / "alpha.png")
    reports = segment(trained / "model", [folder], output=tmp_path / "out")
    assert len(reports) == 4
    assert len(list((tmp_path / "out").iterdir())) == 12


def test_a_finished_run_is_found_again_and_another_one_is_not(trained, tmp_path):
    again = tmp_path / "again"
    train(experiment_of(trained), again, trained / "run")
    for name, tensor in load_segmenter(again, "cpu")[0].state_dict().items():
        assert torch.equal(tensor, load_segmenter(trained / "model", "cpu")[0].state_dict()[name])
    with pytest.raises(NaturalImagesValueError, match="augment"):
        train(experiment_of(trained, "augment.flip=0.25"), tmp_path / "other", trained / "run")


def test_training_starts_from_the_backbone_of_another_model(trained, tmp_path):
    initial = f"initial={json.dumps(str(trained / 'model'))}"
    experiment = experiment_of(trained, initial, "recipe.steps=1", "recipe.warmup_steps=1")
    train(experiment, tmp_path / "model", tmp_path / "run")
    # The rate of a single step of warm-up is nought.
    before, after = (load_segmenter(f / "model", "cpu")[0] for f in (trained, tmp_path))
    state = before.backbone.state_dict()
    assert all(torch.equal(state[n], value) for n, value in after.backbone.state_dict().items())
    assert not torch.equal(before.decode_head.conv_seg.weight, after.decode_head.conv_seg.weight)


def test_a_wrong_annotation_stops_before_the_first_step(areas, tmp_path):
    file = areas / "annotations" / "validation" / "validation_0001.png"
    labels = np.array(Image.open(file))
    labels[3, 5] = 200
    Image.fromarray(labels).save(file)
    with pytest.raises(NaturalImagesDataError, match=r"validation_0001\.png.*got 200 in row 3"):
        train(experiment_of(tmp_path), tmp_path / "model", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_images_are_not_validated_on_what_is_trained(areas, tmp_path):
    for kind in ("images", "annotations"):
        (areas / kind / "training").rename(areas / "away")
        shutil.rmtree(areas / kind)
        (areas / "away").rename(areas / kind)
    with pytest.raises(NaturalImagesDataError, match="got one folder of both"):
        train(experiment_of(tmp_path), tmp_path / "model", tmp_path / "run")


def test_values_that_do_not_fit_are_refused(areas, tmp_path):
    places = tmp_path / "model", tmp_path / "run"
    experiment = experiment_of(tmp_path)
    with pytest.raises(NaturalImagesValueError, match=r"areas\.yaml: recipe\.ema_decay"):
        train(experiment_of(tmp_path, "recipe.ema_decay=0.9"), *places)
    with pytest.raises(NaturalImagesValueError, match=r"areas\.yaml: .*dense backbone"):
        model = ModelSection("fastvim_tiny_patch16_224", {})
        train(replace(experiment, model=model), *places)
    with pytest.raises(NaturalImagesDataError, match="expected 5 classes, got 3"):
        train(replace(experiment, data=replace(experiment.data, classes=5)), *places)
