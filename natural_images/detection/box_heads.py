"""What an RoI shows and where the box of it really is."""

import torch.nn.functional as F
from torch import Tensor, nn

from natural_images.detection.layers import conv_blocks, init_normal, zero_bias

SIDE = 7
"""Rows and columns of the features of an RoI."""


class BoxHead(nn.Module):
    """3 × 3 convolutions with LayerNorm and one hidden layer (ViTDet, appendix A.2).

    The box is predicted alike for all classes, as in Cascade R-CNN (Cai & Vasconcelos 2018).
    """

    def __init__(self, channels: int, num_classes: int, *, convs: int, hidden: int) -> None:
        super().__init__()
        self.shared_convs = conv_blocks(channels, channels, convs, norm=True)
        first = nn.Linear(channels * SIDE * SIDE, hidden)
        self.shared_fcs = nn.ModuleList([first])
        self.fc_cls = nn.Linear(hidden, num_classes + 1)
        self.fc_reg = nn.Linear(hidden, 4)
        nn.init.xavier_uniform_(first.weight)
        zero_bias(first)
        init_normal(self.fc_cls, std=0.01)
        init_normal(self.fc_reg, std=0.001)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (m, class + 1), the last one of background, and deltas (m, 4), both float32.

        features : (m, channel, 7, 7).
        """
        hidden = self.shared_convs(features).flatten(1)
        for layer in self.shared_fcs:
            hidden = F.relu(layer(hidden))
        return self.fc_cls(hidden).float(), self.fc_reg(hidden).float()
