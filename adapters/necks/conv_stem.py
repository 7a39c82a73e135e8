"""A convolutional stem beside a trunk: maps of strides 4, 8, 16 and so on, straight from the image."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from adapters.levels import Level
from adapters.necks.norms import make_norm

#: The stride of the first map that a stem has.
FIRST_STRIDE = 4

#: The factor between the channels of the first map and those of the widest.
WIDEST = 4


class ConvStem(nn.Module):
    """An image to maps of strides 4, 8, 16 and so on, each from the one before by a convolution of stride 2.

    The image first passes an entry: 3x3 convolutions, the first of stride 2, and a max pooling. Channels double with
    the stride until there are four times as many.

    Args:
        image_channels: channels of the image.
        channels: channels of the map of stride 4.
        out_strides: strides of the maps to give, increasing, powers of two from 4.
        norm: see :func:`adapters.necks.norms.make_norm`.
        entry_convs: the number of convolutions in the entry.
        activation: after each convolution and its norm.
        activated: give the maps of strides above 4 after their activation; False before it.
    """

    def __init__(
        self,
        image_channels: int,
        channels: int,
        out_strides: Sequence[int],
        norm: str,
        *,
        entry_convs: int,
        activation: nn.Module,
        activated: bool,
    ) -> None:
        super().__init__()
        self.out_strides = tuple(out_strides)
        self.activated = activated
        self.levels = tuple(Level(self._channels_at(channels, stride), stride) for stride in self.out_strides)
        layers: list[nn.Module] = []
        for index in range(entry_convs):
            layers += _make_conv(image_channels if index == 0 else channels, channels, 2 if index == 0 else 1, norm)
            layers.append(activation)
        self.entry = nn.Sequential(*layers, nn.MaxPool2d(3, stride=2, padding=1))
        self.steps = nn.ModuleList()
        stride = FIRST_STRIDE
        while stride < self.out_strides[-1]:
            before, after = (self._channels_at(channels, s) for s in (stride, 2 * stride))
            self.steps.append(nn.Sequential(*_make_conv(before, after, 2, norm)))
            stride *= 2
        self.activation = activation

    @staticmethod
    def _channels_at(channels: int, stride: int) -> int:
        return channels * min(stride // FIRST_STRIDE, WIDEST)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Turn an image ``(B, C, H, W)`` into one ``(B, C_i, ceil(H / s_i), ceil(W / s_i))`` for each of ``levels``."""
        x = self.entry(image)
        maps = {FIRST_STRIDE: x}
        stride = FIRST_STRIDE
        for step in self.steps:
            before = x if self.activated or stride == FIRST_STRIDE else self.activation(x)
            x = step(before)
            if self.activated:
                x = self.activation(x)
            stride *= 2
            maps[stride] = x
        return [maps[stride] for stride in self.out_strides]


def _make_conv(in_channels: int, out_channels: int, stride: int, norm: str) -> list[nn.Module]:
    """Make a 3x3 convolution that starts with He's weights over what leaves it (arXiv 1502.01852), and its norm."""
    conv = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
    nn.init.normal_(conv.weight, std=math.sqrt(2 / (9 * out_channels)))
    return [conv, make_norm(norm, out_channels)]
