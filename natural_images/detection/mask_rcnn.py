"""Cascade Mask R-CNN on a plain backbone, as in ViTDet (Li et al. 2022).

The last map of a FastVim or Vim stands in place of a ViT's.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastvim.dense import DenseBackbone
from natural_images.detection.cascade import CascadeHead, Detections
from natural_images.detection.head_section import HeadSection
from natural_images.detection.matching import Truth
from natural_images.detection.pyramid import ROI_LEVELS, SimpleFeaturePyramid, pyramid_strides
from natural_images.detection.region_proposals import RegionProposalHead
from natural_images.detection.roi_maps import RoiMaps
from natural_images.errors import NaturalImagesValueError


class Detector(nn.Module):
    """Backbone, feature pyramid, region proposals and cascade, named as in OpenMMLab's files.

    Raises NaturalImagesValueError for a backbone of several maps, or one whose patches or width are
    not multiples of 4.
    """

    def __init__(self, backbone: DenseBackbone, num_classes: int, heads: HeadSection) -> None:
        super().__init__()
        maps, patch, dim = len(backbone.out_indices), backbone.patch_size, backbone.embed_dim
        if maps != 1 or patch % 4 or dim % 4:
            raise NaturalImagesValueError(
                "model: a detector's backbone: expected one map (out_indices), patch_size and "
                f"embed_dim multiples of 4, got {maps} maps, patch_size {patch}, embed_dim {dim}"
            )
        strides = pyramid_strides(patch)
        self.num_classes, self.heads, self.stride = num_classes, heads, strides[0]
        self.backbone = backbone
        self.neck = SimpleFeaturePyramid(dim, heads.channels)
        self.rpn_head = RegionProposalHead(heads.channels, heads.rpn_convs, strides)
        self.roi_head = CascadeHead(num_classes, heads)

    def forward(
        self, images: Tensor, boxes: Tensor, classes: Tensor, masks: Tensor
    ) -> dict[str, Tensor]:
        """Losses of a batch.

        RoIs are drawn with PyTorch's global generator of the device.

        Parameters
        ----------
        images
            (b, 3, height, width), normalised as `DetectorInfo` says.
        boxes
            (b, n, 4) x0, y0, x1, y1 in px.
        classes
            (b, n) int64; −1 where an image has fewer objects, or none.
        masks
            (b, n, height, ⌈width / 8⌉) uint8, 8 px a byte along a row, the first in the highest
            bit, as `numpy.packbits` has it.

        Returns
        -------
        Scalars: ``rpn_class``, ``rpn_box``, ``stage1_class``, ``stage1_box``, ``stage1_mask`` and
        so on to stage 3, each by its weight, and their sum ``loss``. All are there, also for
        images without objects.
        """
        height, width = images.shape[-2:]
        if boxes.shape[1] == 0:  # every image has room for an object
            boxes, classes = F.pad(boxes, (0, 0, 0, 1)), F.pad(classes, (0, 1), value=-1)
            masks = F.pad(masks, (0, 0, 0, 0, 0, 1))
        truth = Truth(boxes.float(), classes, masks, width)
        sizes = torch.empty(len(images), 2, device=images.device)
        sizes[:, 0], sizes[:, 1] = height, width

        maps = self.neck(self.backbone(images)[0])
        predicted = self.rpn_head(maps)
        rpn_class, rpn_box = self.rpn_head.losses(predicted, truth, self.heads.rpn_samples)
        proposals = self.rpn_head.propose(predicted, sizes, self.heads.proposals_train)
        roi_maps = RoiMaps(maps[:ROI_LEVELS], self.stride)
        stages = self.roi_head.losses(roi_maps, proposals, truth, sizes)
        losses = {"rpn_class": rpn_class, "rpn_box": rpn_box, **stages}
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}

    @torch.no_grad()
    def detect(self, images: Tensor, sizes: Tensor) -> list[Detections]:
        """Find objects.

        Parameters
        ----------
        images
            (b, 3, height, width), normalised; what is right of or below an image is padding.
        sizes
            (b, 2) height and width of each image without padding, px.
        """
        sizes = sizes.to(images.device, torch.float32)
        maps = self.neck(self.backbone(images)[0])
        predicted = self.rpn_head(maps)
        proposals = self.rpn_head.propose(predicted, sizes, self.heads.proposals_test)
        return self.roi_head.detect(RoiMaps(maps[:ROI_LEVELS], self.stride), proposals, sizes)
