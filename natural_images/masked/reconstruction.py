"""What a masked autoencoder makes of images, as pictures."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fastvim.masked_autoencoder import MaskedAutoencoder
from fastvim.patch_embed import grid_size
from natural_images.classification.augment import Augment
from natural_images.figures import bare, figure

REMOVED = 0.5
"""Grey of removed patches, from 0 to 1."""

ROWS = ("image", "kept", "filled in")


@dataclass(frozen=True)
class Reconstruction:
    """Images as they are, with patches removed, and with those filled in by the model.

    Each (b, 3, h, w) float32 from 0 to 1 on the CPU.
    """

    image: Tensor
    kept: Tensor
    filled: Tensor


def reconstruct(
    model: MaskedAutoencoder, images: Tensor, noise: Tensor, *, mask_ratio: float, augment: Augment
) -> Reconstruction:
    """Remove patches and fill them in again.

    A model that predicts normalised patches says nothing of their brightness and contrast, so
    these are taken from the true patch, as MAE's own pictures do.

    Parameters
    ----------
    images
        (b, 3, h, w), normalised as `augment` says.
    noise
        (b, token); the tokens with the least are kept.
    """
    _, predicted, mask = model(images, mask_ratio, noise)
    predicted = predicted.float()
    patches = images_to_patches(images, model.patch_size)
    if model.norm_pix_loss:
        variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
        predicted = predicted * (variance + 1e-6).sqrt() + mean
    removed = mask.bool().unsqueeze(-1)
    filled = torch.where(removed, predicted, patches)
    height, width = images.shape[-2:]
    size = height, width
    shown = [
        _to_pixels(patches_to_images(each, model.patch_size, size), augment)
        for each in (patches, filled)
    ]
    blank = patches_to_images(removed.expand_as(patches), model.patch_size, size).cpu()
    return Reconstruction(shown[0], shown[0].masked_fill(blank, REMOVED), shown[1])


def images_to_patches(images: Tensor, patch: int) -> Tensor:
    """(b, c, h, w) to (b, token, patch * patch * c), channel fastest; sides whole patches."""
    batch, channel, height, width = images.shape
    cut = images.reshape(batch, channel, height // patch, patch, width // patch, patch)
    return cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def patches_to_images(patches: Tensor, patch: int, size: tuple[int, int]) -> Tensor:
    """The inverse of `images_to_patches` for images of `size` (height, width)."""
    rows, columns = grid_size(size, patch)
    cut = patches.unflatten(1, (rows, columns)).unflatten(3, (patch, patch, -1))
    return cut.permute(0, 5, 1, 3, 2, 4).reshape(len(patches), -1, rows * patch, columns * patch)


def draw(reconstruction: Reconstruction, output: Path, *, title: str) -> None:
    """Write a PNG atomically: a column an image; rows for the image, what is kept, and the rest."""
    count = len(reconstruction.image)
    pictures = (reconstruction.image, reconstruction.kept, reconstruction.filled)
    with figure(1.1 * count + 0.4, 3.8, output) as drawn:
        gaps = {"w_pad": 0.02, "h_pad": 0.02, "wspace": 0, "hspace": 0}
        drawn.set_layout_engine("constrained", **gaps)
        axes = drawn.subplots(3, count, squeeze=False)
        for row, (name, images) in enumerate(zip(ROWS, pictures, strict=True)):
            for column, image in enumerate(images):
                axes[row, column].imshow(image.permute(1, 2, 0).numpy(), interpolation="nearest")
                bare(axes[row, column])
            axes[row, 0].set_ylabel(name)
        drawn.suptitle(title)


def _to_pixels(images: Tensor, augment: Augment) -> Tensor:
    mean, std = (
        torch.tensor(value, device=images.device).view(3, 1, 1)
        for value in (augment.mean, augment.std)
    )
    return (images.float() * std + mean).clamp(0, 1).cpu()
