"""What weights a model folder or a published file has, told without building the model."""

import pytest
import torch

from natural_images.classification.kept_weights import kept_weights
from natural_images.errors import NaturalImagesDataError

STATE = {"head.weight": torch.zeros(1)}


def test_a_folder_has_averaged_weights_in_a_file_of_their_own(tmp_path):
    assert kept_weights(tmp_path) == ["plain"]
    (tmp_path / "ema.safetensors").touch()
    assert kept_weights(tmp_path) == ["plain", "ema"]


@pytest.mark.parametrize(
    ("content", "kinds"),
    [
        ({"state_dict": STATE, "state_dict_ema": STATE}, ["plain", "ema"]),
        ({"state_dict_ema": STATE, "step": torch.tensor(1)}, ["ema"]),
        ({"model": STATE}, ["plain"]),
        (STATE, ["plain"]),
    ],
)
def test_a_published_file_has_them_in_entries(tmp_path, content, kinds):
    torch.save(content, tmp_path / "model.pth")
    assert kept_weights(tmp_path / "model.pth") == kinds


def test_a_file_of_something_else_is_named(tmp_path):
    (tmp_path / "model.pth").write_text("no weights")
    with pytest.raises(NaturalImagesDataError, match=r"model.pth: no image classifier"):
        kept_weights(tmp_path / "model.pth")
