"""A pre-trained encoder as a classifier."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import fastvim
from natural_images.errors import NaturalImagesDataError, NaturalImagesValueError
from natural_images.experiment import load_experiment
from natural_images.masked.encoder import classifier_from, digest, untrained_classifier

CONFIG = Path(__file__).parents[3] / "config"
SMALL = {"patch_size": 4, "embed_dim": 16, "depth": 2}


def experiment_for(initial, name="fastvim_base_patch16_224", size=16, shifted=False, **options):
    overrides = [f"initial={initial}", f"data.size={size}"]
    experiment = load_experiment(
        CONFIG / "mae" / "finetune.yaml", [*overrides, f"model.name={name}"]
    )
    model = replace(experiment.model, options={**SMALL, **options})
    return replace(experiment, model=model, shifted_positions=shifted)


def pretrained(folder, name="fastmaskvim_base_patch16_224"):
    torch.manual_seed(0)
    model = fastvim.create_model(name, img_size=16, decoder_embed_dim=16, decoder_depth=1, **SMALL)
    model.save_pretrained(folder)
    return model


def test_the_encoder_moves_and_positions_become_trainable(tmp_path):
    masked = pretrained(tmp_path)
    model = classifier_from(experiment_for(tmp_path, scaling_factor=0.25, drop_path_rate=0.3), 7)
    assert model.num_classes == 7
    assert model.options["scaling_factor"] == 0.25
    assert model.layers.drop_path_rate == 0.3
    assert torch.equal(model.pos_embed, masked.pos_embed)
    assert model.pos_embed.requires_grad
    assert not masked.pos_embed.requires_grad
    for name, value in masked.layers.state_dict().items():
        assert torch.equal(model.layers.state_dict()[name], value), name


def test_positions_are_resized(tmp_path):
    pretrained(tmp_path)
    assert classifier_from(experiment_for(tmp_path, size=32), 7).pos_embed.shape == (1, 64, 16)


def test_class_token_and_its_position(tmp_path):
    masked = pretrained(tmp_path, "maskvim_base_patch16_224")
    name = "vim_base_patch16_224"
    right = classifier_from(experiment_for(tmp_path, name), 7)
    assert torch.equal(right.pos_embed[0, 8], masked.pos_embed[0, 0])
    assert torch.equal(right.pos_embed[0, :8], masked.pos_embed[0, 1:9])
    published = classifier_from(experiment_for(tmp_path, name, shifted=True), 7)
    assert torch.equal(published.pos_embed, masked.pos_embed)


def test_untrained_weights_need_no_file():
    model = untrained_classifier(experiment_for("unread", scaling_factor=0.25), 7)
    assert (model.num_classes, model.options["scaling_factor"]) == (7, 0.25)
    with pytest.raises(NaturalImagesValueError, match=r"expected a FastVim or Vim, got 'resnet18'"):
        experiment = experiment_for("unread", "resnet18")
        untrained_classifier(replace(experiment, model=replace(experiment.model, options={})), 7)


def test_weights_that_are_not_there(tmp_path):
    with pytest.raises(NaturalImagesDataError, match="Run `natural-images pretrain` first"):
        classifier_from(experiment_for(tmp_path / "nowhere"), 7)


def test_weights_that_do_not_fit(tmp_path):
    pretrained(tmp_path)
    with pytest.raises(NaturalImagesDataError, match=r"model.safetensors: does not fit fastvim"):
        classifier_from(experiment_for(tmp_path, embed_dim=32), 7)


def test_models_that_are_not_ours(tmp_path):
    pretrained(tmp_path)
    with pytest.raises(NaturalImagesValueError, match=r"model.name: expected one of .*'resnet18'"):
        classifier_from(experiment_for(tmp_path, "resnet18"), 7)


def test_digest_tells_weights_apart(tmp_path):
    pretrained(tmp_path / "a")
    torch.manual_seed(1)
    pretrained(tmp_path / "b", "maskvim_base_patch16_224")
    assert digest(experiment_for(tmp_path / "a")) != digest(experiment_for(tmp_path / "b"))
