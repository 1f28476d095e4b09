"""What the pyramid and the heads are made of; named inside as OpenMMLab names its layers."""

from torch import Tensor, nn

EPS = 1e-6


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of maps (batch, channel, row, column), at each place."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise; the result lies channels-last in memory, where convolutions are fastest."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvBlock(nn.Module):
    """Convolution that keeps the size, LayerNorm (then without bias) and ReLU, both optional."""

    def __init__(
        self, channels_in: int, channels: int, kernel: int, *, norm: bool, relu: bool
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels, kernel, padding=kernel // 2, bias=not norm)
        self.ln = LayerNorm2d(channels) if norm else nn.Identity()
        self.activation = nn.ReLU() if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Maps (batch, channel, row, column) in and out."""
        return self.activation(self.ln(self.conv(x)))


def conv_blocks(channels_in: int, channels: int, count: int, *, norm: bool) -> nn.Sequential:
    """`count` blocks of 3 × 3 convolutions with ReLU, initialised as He et al. 2015 say."""
    blocks = nn.Sequential()
    for number in range(count):
        block = ConvBlock(channels if number else channels_in, channels, 3, norm=norm, relu=True)
        nn.init.kaiming_normal_(block.conv.weight, mode="fan_out", nonlinearity="relu")
        zero_bias(block.conv)
        blocks.append(block)
    return blocks


def init_normal(layer: nn.Conv2d | nn.Linear, std: float) -> None:
    """Weights from a normal distribution, as for the last layers of R-CNNs; no bias."""
    nn.init.normal_(layer.weight, std=std)
    zero_bias(layer)


def zero_bias(layer: nn.Module) -> None:
    """Set the bias to 0, if there is one."""
    if isinstance(layer.bias, Tensor):
        nn.init.zeros_(layer.bias)
