"""Pictures of what a masked autoencoder fills in."""

import pytest
import torch
from PIL import Image

import fastvim
from natural_images.classification.augment import Augment
from natural_images.masked.reconstruction import (
    REMOVED,
    draw,
    images_to_patches,
    patches_to_images,
    reconstruct,
)

AUGMENT = Augment(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


@pytest.fixture(params=[True, False], ids=["normalised", "plain"])
def model(request):
    torch.manual_seed(0)
    return fastvim.create_model(
        "fastmaskvim_base_patch16_224",
        **{"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2},
        **{"decoder_embed_dim": 16, "decoder_depth": 1, "norm_pix_loss": request.param},
    ).eval()


@torch.no_grad()
def test_patches_are_those_of_the_loss():
    torch.manual_seed(0)
    images = torch.rand(2, 3, 8, 12)
    patches = images_to_patches(images, 4)
    model = fastvim.create_model(
        "fastmaskvim_base_patch16_224",
        **{"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 1, "norm_pix_loss": False},
        **{"decoder_embed_dim": 16, "decoder_depth": 1},
    )
    assert torch.equal(patches, model.target(images))
    assert torch.equal(patches_to_images(patches, 4, (8, 12)), images)


@torch.no_grad()
def test_kept_patches_stay_and_removed_ones_come_from_the_model(model, monkeypatch):
    pixels = torch.rand(3, 3, 16, 16)
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (AUGMENT.mean, AUGMENT.std))
    images = (pixels - mean) / std
    noise = torch.rand(3, 16)
    shown = reconstruct(model, images, noise, mask_ratio=0.75, augment=AUGMENT)
    _, _, mask = model(images, 0.75, noise)
    removed = patches_to_images(mask.bool()[..., None].expand(-1, -1, 48), 4, (16, 16))
    assert removed.float().mean() == 0.75
    torch.testing.assert_close(shown.image, pixels)
    assert (shown.kept[removed] == REMOVED).all()
    torch.testing.assert_close(shown.kept[~removed], pixels[~removed])
    torch.testing.assert_close(shown.filled[~removed], pixels[~removed])
    assert not torch.allclose(shown.filled[removed], pixels[removed], atol=0.05)

    # a perfect prediction gives the image back, whatever the target is
    true = (torch.zeros(()), model.target(images), mask)
    monkeypatch.setattr(type(model), "forward", lambda *_: true)
    perfect = reconstruct(model, images, noise, mask_ratio=0.75, augment=AUGMENT)
    torch.testing.assert_close(perfect.filled, pixels, atol=1e-4, rtol=0)


@torch.no_grad()
def test_draw_writes_a_picture(model, tmp_path):
    images = torch.randn(4, 3, 16, 16)
    shown = reconstruct(model, images, torch.rand(4, 16), mask_ratio=0.75, augment=AUGMENT)
    output = tmp_path / "pictures" / "epoch_0001.png"
    draw(shown, output, title="Epoch 1")
    with Image.open(output) as picture:
        assert picture.width > picture.height > 200
    assert [path.name for path in output.parent.iterdir()] == ["epoch_0001.png"]
