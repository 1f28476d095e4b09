from pathlib import Path

import pytest

from natural_images.errors import NaturalImagesValueError
from natural_images.segmentation.experiment import load_experiment

YAML = """
model: {name: fastvim_tiny_patch16_dense, options: {}}
data: {path: data/ADEChallengeData2016, classes: 150}
recipe: {steps: 100, warmup_steps: 10}
"""


def write(folder: Path, text: str) -> Path:
    (folder / "experiment.yaml").write_text(text)
    return folder / "experiment.yaml"


def test_defaults_are_the_published_ones(tmp_path):
    experiment = load_experiment(write(tmp_path, YAML))
    assert experiment.data.path == Path("data/ADEChallengeData2016")
    assert experiment.augment.crop == experiment.test.crop == 512
    assert experiment.heads.channels == 512
    assert experiment.recipe.steps == 100
    assert experiment.initial is None


def test_overrides_win_over_the_file(tmp_path):
    overrides = ["augment.crop=64", "initial=weights.pth", "test.mode=whole", "data.path=elsewhere"]
    experiment = load_experiment(write(tmp_path, YAML), overrides)
    assert experiment.augment.crop == 64
    assert experiment.initial == Path("weights.pth")
    assert experiment.test.mode == "whole"
    assert experiment.data.path == Path("elsewhere")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("augment.crops=64", "unknown key 'augment.crops'. Did you mean crop"),
        ("augment.flip=2", "augment: flip: expected a probability"),
        ("data.classes=0", "data: classes: expected none or a whole number from 1, got 0"),
        ("data.path=", "data: path: expected a folder"),
        ("heads.channels=wide", "heads: channels"),
        ("test.mode=tiles", "test: mode"),
        ("model.options=[8]", "model: expected a model's name and a mapping of options"),
        ("recipe.steps=0", "recipe: Recipe key 'steps'"),
        ("initial=5", "initial: expected a checkpoint file or a model folder, got 5"),
    ],
)
def test_a_wrong_value_names_file_and_key(tmp_path, override, message):
    with pytest.raises(NaturalImagesValueError, match=message):
        load_experiment(write(tmp_path, YAML), [override])
