import json

import pytest

from natural_images.detection.experiment import load_experiment
from natural_images.errors import NaturalImagesValueError


@pytest.fixture
def written(tmp_path):
    def write(**changes):
        content = {
            "model": {"name": "fastvim_tiny_patch16_dense", "options": {"depth": 2}},
            "data": {"path": "images"},
            **changes,
        }
        file = tmp_path / "experiment.yaml"
        file.write_text(json.dumps(content))  # which is YAML too
        return file

    return write


def test_defaults_are_the_published_recipe(written):
    experiment = load_experiment(written())
    assert (experiment.augment.size, experiment.augment.scale) == (1024, (0.1, 2.0))
    assert (experiment.heads.channels, experiment.heads.box_samples) == (256, 512)
    assert experiment.initial is None
    assert str(experiment.data.path) == "images"


def test_overrides_win(written):
    overrides = ["augment.size=64", "initial=weights", "data.images_at_once=2"]
    experiment = load_experiment(written(), overrides)
    assert experiment.augment.size == 64
    assert str(experiment.initial) == "weights"
    assert experiment.data.images_at_once == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"augment": {"scale": [2, 1]}}, "augment: augment key 'scale'"),
        ({"heads": {"most": 0}}, "heads: heads key 'most'"),
        ({"data": {"path": ""}}, "data: path: expected a folder"),
        ({"data": {"path": "a", "images_at_once": 0}}, "data: images_at_once"),
        ({"initial": 3}, "initial: expected a checkpoint file or a model folder, got 3"),
        ({"test": {}}, "unknown key 'test'"),
        ({"augment": {"sise": 3}}, "Did you mean size"),
    ],
)
def test_wrong_values_are_named(written, changes, message):
    with pytest.raises(NaturalImagesValueError, match=message):
        load_experiment(written(**changes))
