"""Saved models: what is in the folder, and what is refused."""

import json

import pytest
import torch

from fastvim import FastChannelVim, FastVim

OPTIONS = {
    "img_size": (16, 24),
    "patch_size": 8,
    "in_chans": 3,
    "embed_dim": 16,
    "depth": 2,
    "num_classes": 4,
    "scan_order": "spatial-first",
    "collapse_method": "max",
    "hcs": False,
}


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    model = FastChannelVim(**OPTIONS)
    model.save_pretrained(tmp_path / "new" / "folder")
    return model.eval(), tmp_path / "new" / "folder"


def test_round_trip(saved):
    model, folder = saved
    again = FastChannelVim.from_pretrained(folder)
    assert not again.training
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}
    image = torch.randn(1, 3, 20, 24)
    with torch.no_grad():
        assert torch.equal(model(image), again(image))
    again.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    assert config["scan_order"] == "spatial-first"
    assert config["img_size"] == [16, 24]


def test_another_class_is_refused(saved):
    with pytest.raises(ValueError, match=r"config\.json: expected model 'FastVim', got 'FastChan"):
        FastVim.from_pretrained(saved[1])


def test_weights_of_another_shape_are_refused(saved):
    path = saved[1] / "config.json"
    path.write_text(path.read_text().replace('"in_chans": 3', '"in_chans": 4'))
    with pytest.raises(RuntimeError, match="channel_embed"):
        FastChannelVim.from_pretrained(saved[1])


def test_pickled_weights_are_never_read(saved):
    model, folder = saved
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError):
        FastChannelVim.from_pretrained(folder)
