"""Every configuration of segmentation and detection says what the engine and the models know."""

from pathlib import Path

import pytest
import yaml

from fastvim.training.parameter_groups import parameter_groups
from natural_images.detection import experiment as detection
from natural_images.detection.detector import build_detector
from natural_images.segmentation import experiment as segmentation
from natural_images.segmentation.segmenter import build_segmenter

CONFIG = Path(__file__).parents[2] / "config"
SHARED = ("upernet.yaml", "cascade.yaml")


def experiments(folder):
    return [file for file in sorted((CONFIG / folder).glob("*.yaml")) if file.name not in SHARED]


@pytest.mark.parametrize("file", experiments("ade20k"), ids=lambda file: file.stem)
def test_segmentation(file):
    recipe = segmentation.load_experiment(file).recipe
    if file.stem != "shapes":
        assert (recipe.steps, recipe.warmup_steps, recipe.batch_size) == (160_000, 1500, 16)
        assert (recipe.lr, recipe.schedule) == (6e-5, "linear")


@pytest.mark.parametrize("file", experiments("coco"), ids=lambda file: file.stem)
def test_detection(file):
    recipe = detection.load_experiment(file).recipe
    if file.stem != "shapes":
        assert (recipe.steps, recipe.warmup_steps, recipe.batch_size) == (184_375, 250, 64)
        assert (recipe.lr, recipe.milestones) == (1e-4, (163_889, 177_546))
        assert recipe.lr_scales == pytest.approx({"patch_embed": 0.7**13, "pos_embed": 0.7**13})


@pytest.mark.parametrize("folder", ["ade20k", "coco"])
def test_headers_state_the_paper_and_a_command_of_this_file(folder):
    for file in experiments(folder):
        header = file.read_text().split("\nbase:")[0]
        command = {"ade20k": "train-segmentation", "coco": "train-detection"}[folder]
        assert f"config/{folder}/{file.name}" in header
        assert command in header
        assert file.stem == "shapes" or "the paper reports" in header


def test_names_that_are_not_decayed_are_the_segmenters():
    experiment = segmentation.load_experiment(CONFIG / "ade20k" / "shapes.yaml")
    recipe = experiment.recipe
    assert set(recipe.undecayed) == {"pos_embed", "norm", "A_log", "A_b_log", ".D"}
    model = build_segmenter(
        experiment.model.name,
        experiment.model.options,
        num_classes=6,
        heads=experiment.heads,
        crop=experiment.augment.crop,
    )
    groups = parameter_groups(model, decay=recipe.decay, undecayed=recipe.undecayed)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    spared = {names[id(p)] for g in groups for p in g["params"] if not g.get("weight_decay", 1)}
    assert {"backbone.pos_embed", "backbone.layers.0.mixer.D_b"} <= spared
    assert not any(name.startswith(("decode_head", "auxiliary_head")) for name in spared)
    assert "backbone.layers.0.mixer.in_proj.weight" not in spared


def test_names_that_learn_slowly_are_the_detectors():
    experiment = detection.load_experiment(CONFIG / "coco" / "shapes.yaml")
    shared = yaml.safe_load((CONFIG / "coco" / "cascade.yaml").read_text())["recipe"]
    model = build_detector(
        experiment.model.name,
        experiment.model.options,
        num_classes=5,
        heads=experiment.heads,
        size=experiment.augment.size,
    )
    groups = parameter_groups(model, decay=shared["decay"], lr_scales=shared["lr_scales"])
    slow = [p for group in groups if group.get("lr_scale", 1) != 1 for p in group["params"]]
    assert len(slow) == 3  # positions, weight and bias of the patches
