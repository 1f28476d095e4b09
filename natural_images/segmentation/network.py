"""A dense backbone with UPerNet: the class of every pixel."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastvim.dense import DenseBackbone
from natural_images.errors import NaturalImagesValueError
from natural_images.segmentation.ade20k import IGNORED
from natural_images.segmentation.upernet import FCNHead, HeadSection, UPerHead


class Segmenter(nn.Module):
    """Backbone, decode head on all of its maps, and auxiliary head on one of them.

    Tensors have the names of the published ADE20K checkpoints. The auxiliary head only helps the
    backbone to learn.
    """

    def __init__(self, backbone: DenseBackbone, num_classes: int, heads: HeadSection) -> None:
        super().__init__()
        maps = len(backbone.out_indices)
        if heads.auxiliary_map >= maps:
            raise NaturalImagesValueError(
                f"auxiliary_map: expected one of the backbone's maps 0 to {maps - 1}, got "
                f"{heads.auxiliary_map}"
            )
        self.num_classes, self.heads = num_classes, heads
        self.backbone = backbone
        self.decode_head = UPerHead(backbone.embed_dim, maps, num_classes, heads)
        self.auxiliary_head = FCNHead(backbone.embed_dim, num_classes, heads)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor | dict[str, Tensor]:
        """Tell the classes apart, or how badly that is done.

        Parameters
        ----------
        images
            (b, 3, h, w), normalised.
        labels
            (b, h, w) int64; 255 is ignored.

        Returns
        -------
        Without labels the logits (b, class, h, w) float32. With labels scalars: ``loss``, which is
        ``decode_loss`` + `HeadSection.auxiliary_weight` × ``auxiliary_loss``, and ``accuracy``, the
        share of labelled pixels that are right, 0 where none is.
        """
        self._check_batch(len(images))
        size = images.shape[2:]
        maps = self.backbone(images)
        logits = self._logits(self.decode_head(maps), size)
        if labels is None:
            return logits
        auxiliary = self._logits(self.auxiliary_head(maps[self.heads.auxiliary_map]), size)
        decode_loss = _cross_entropy(logits, labels)
        auxiliary_loss = _cross_entropy(auxiliary, labels)
        return {
            "loss": decode_loss + self.heads.auxiliary_weight * auxiliary_loss,
            "decode_loss": decode_loss,
            "auxiliary_loss": auxiliary_loss,
            "accuracy": _accuracy(logits, labels),
        }

    def _logits(self, maps: Tensor, size: torch.Size) -> Tensor:
        """Logits of patches at the pixels; what the backbone padded is cut off."""
        patch = self.backbone.patch_size
        padded = (maps.shape[2] * patch, maps.shape[3] * patch)
        # In float32: the loss and the sums of windows would lose too much in 16 bits.
        pixels = F.interpolate(maps.float(), padded, mode="bilinear", align_corners=False)
        return pixels[:, :, : size[0], : size[1]]

    def _check_batch(self, images: int) -> None:
        norm = self.decode_head.bottleneck.bn
        # Synchronised norms see the images of all processes.
        if self.training and images == 1 and isinstance(norm, nn.BatchNorm2d):
            raise NaturalImagesValueError(
                "Training a segmenter: expected at least 2 images at once, as batch norm has no "
                "statistics of a single pooled one, got 1. Raise recipe.batch_size or "
                "data.images_at_once"
            )


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum over labelled pixels divided by the number of all, as OpenMMLab's default is.

    So every image weighs the same however a batch is dealt out, and one without labels weighs
    nothing.
    """
    return F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none").mean()


@torch.no_grad()
def _accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of the labelled pixels whose highest logit is right; 0 without any."""
    right = logits.argmax(dim=1) == labels
    return right.sum() / (labels != IGNORED).sum().clamp(min=1)
