import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from natural_images.detection.detector import load_detector
from natural_images.detection.experiment import load_experiment
from natural_images.detection.train import train
from natural_images.errors import NaturalImagesDataError, NaturalImagesValueError


def curves(file):
    with file.open(newline="") as rows:
        return list(csv.DictReader(rows))


def test_train_writes_a_folder_and_curves(trained):
    model, info = load_detector(trained / "model")
    assert info.classes == ("square", "cross")
    assert info.category_ids == (3, 7)
    assert info.size == 48
    assert not model.training
    rows = curves(trained / "run" / "train.csv")
    assert [row["step"] for row in rows] == ["1", "2", "3", "4"]
    parts = [f"stage{n}_{part}" for n in (1, 2, 3) for part in ("class", "box", "mask")]
    for row in rows:
        total = sum(float(row[name]) for name in ("rpn_class", "rpn_box", *parts))
        assert total == pytest.approx(float(row["loss"]), rel=1e-4)
    validated = curves(trained / "run" / "validation.csv")
    assert [row["step"] for row in validated] == ["2", "4"]
    assert {"box_AP", "box_AP50", "mask_AP", "mask_AP50"} < set(validated[0])


def test_a_stopped_run_resumes_to_the_same_weights(trained, tmp_path, monkeypatch):
    from fastvim.training.step import Stepper

    take = Stepper.take

    def stop(self, step, batches):
        if step == 3:
            raise KeyboardInterrupt
        return take(self, step, batches)

    experiment = load_experiment(trained / "experiment.yaml")
    monkeypatch.setattr(Stepper, "take", stop)
    with pytest.raises(KeyboardInterrupt):
        train(experiment, tmp_path / "model", tmp_path / "run")
    monkeypatch.undo()
    train(experiment, tmp_path / "model", tmp_path / "run")
    resumed, whole = (
        load_file(folder / "model" / "model.safetensors") for folder in (tmp_path, trained)
    )
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    other = replace(experiment, augment=replace(experiment.augment, flip=0.0))
    with pytest.raises(NaturalImagesValueError, match="augment"):
        train(other, tmp_path / "model", tmp_path / "run")


def test_train_starts_from_other_weights(trained, tmp_path):
    overrides = [f"initial={trained / 'model'}", "recipe.min_lr=0", "recipe.base_lr=1e-9"]
    experiment = load_experiment(trained / "experiment.yaml", [*overrides, "recipe.steps=1"])
    train(experiment, tmp_path / "model", tmp_path / "run")
    started, given = (
        load_file(folder / "model" / "model.safetensors") for folder in (tmp_path, trained)
    )
    name = "backbone.layers.1.mixer.in_proj.weight"
    assert torch.allclose(started[name], given[name], atol=1e-6)
    assert not torch.allclose(started["rpn_head.rpn_cls.weight"], given["rpn_head.rpn_cls.weight"])


def test_what_cannot_be_trained(experiment_file, coco, tmp_path):
    def attempt(*overrides):
        experiment = load_experiment(experiment_file, overrides)
        train(experiment, tmp_path / "model", tmp_path / "run")

    with pytest.raises(NaturalImagesDataError, match="expected 9 categories, got 2"):
        attempt("data.classes=9")
    with pytest.raises(NaturalImagesValueError, match=r"recipe.ema_decay: expected none"):
        attempt("recipe.ema_decay=0.9")
    with pytest.raises(NaturalImagesValueError, match=r"experiment.yaml: model"):
        attempt("model.name=vit")
    file = coco / "annotations" / "instances_val2017.json"
    described = json.loads(file.read_text())
    file.write_text(json.dumps({**described, "annotations": []}))
    with pytest.raises(NaturalImagesDataError, match=r"val2017.json: expected an object in 4 imag"):
        attempt()
    described["categories"][0]["name"] = "plus"
    file.write_text(json.dumps(described))
    with pytest.raises(NaturalImagesDataError, match=r"same categories .*plus"):
        attempt()
    described = json.loads((coco / "annotations" / "instances_train2017.json").read_text())
    described["annotations"] = []
    for split in ("train", "val"):
        file = coco / "annotations" / f"instances_{split}2017.json"
        file.write_text(json.dumps(described))
    for name in range(4, 6):
        (coco / "val2017" / f"{name}.png").write_bytes(b"")
    with pytest.raises(NaturalImagesDataError, match="expected objects to train on, got none"):
        attempt()
    assert not (tmp_path / "model").exists()


def test_the_loss_falls_on_what_is_seen_again_and_again(trained, tmp_path):
    experiment = load_experiment(
        trained / "experiment.yaml",
        [
            *("recipe.steps=60", "recipe.batch_size=4", "recipe.lr_scale_batch=4"),
            *("recipe.base_lr=0.01", "recipe.validate_every_steps=60", "augment.scale=[1, 1]"),
        ],
    )
    train(experiment, tmp_path / "model", tmp_path / "run")
    losses = [float(row["loss"]) for row in curves(tmp_path / "run" / "train.csv")]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
