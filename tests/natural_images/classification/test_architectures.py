"""A misspelt name or option is told before anything is built."""

import pytest

from natural_images.classification.architectures import create_classifier
from natural_images.errors import NaturalImagesValueError


def test_names_and_options_are_checked() -> None:
    with pytest.raises(NaturalImagesValueError, match="fastvim_tiny_patch16_224"):
        create_classifier("fastvim_tny_patch16_224", num_classes=3, size=16)
    with pytest.raises(NaturalImagesValueError, match=r"model.options.*widht"):
        create_classifier("vim_tiny_patch16_224", num_classes=3, size=16, options={"widht": 1})
    with pytest.raises(NaturalImagesValueError, match="expected an image classifier"):
        create_classifier("fastvim_tiny_patch16_dense", num_classes=3, size=32)
    with pytest.raises(NaturalImagesValueError, match=r"model.options.*widht"):
        create_classifier("vit_tiny_patch16_224", num_classes=3, size=16, options={"widht": 1})
    free = create_classifier("resnet10t", num_classes=3, size=64)
    assert free.num_classes == 3
