"""Norms of a backbone's maps: over the batch, as in a linear probe, or over the channels, as mmdet's Swin has them."""

from collections.abc import Sequence

from torch import Tensor, nn

from adapters.necks.norms import make_norm
from adapters.registry import register_model


class LevelNorm(nn.Module):
    """A neck that normalises each map, and changes neither channels nor sizes.

    Args:
        in_channels: channels of each map.
    """

    #: The norm, one of ``adapters.necks.norms.NORMS``.
    norm: str

    def __init__(self, in_channels: Sequence[int]) -> None:
        super().__init__()
        self.in_channels = tuple(in_channels)
        self.norms = nn.ModuleList(make_norm(self.norm, channels) for channels in self.in_channels)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps ``(B, C_i, h_i, w_i)`` to maps of the same shapes.

        Raises:
            ValueError: the maps have other channels than ``in_channels``.
        """
        got = tuple(feature_map.shape[1] for feature_map in maps)
        if got != self.in_channels:
            raise ValueError(
                f"{type(self).__name__} got maps of {got} channels but its in_channels are {self.in_channels}."
            )
        return tuple(norm(feature_map) for norm, feature_map in zip(self.norms, maps, strict=True))


@register_model
class LevelBatchNorm(LevelNorm):
    """A neck that normalises each map over the batch: what a linear probe has before its 1x1 convolution.

    A frozen backbone's channels differ in scale by orders of magnitude; with this neck and a 1x1 convolution after it
    (mmseg's ``FCNHead`` without convolutions of its own) the probe is the linear one of DINOv2 and DINOv3
    (arXiv 2508.10104).

    Args:
        in_channels: channels of each map.
    """

    norm = "BN"


@register_model
class LevelLayerNorm(LevelNorm):
    """A neck that normalises each cell of each map over its channels, as mmdet's and mmseg's Swin do at their outputs.

    timm's models have such a norm after the last stage at most, so that levels come with the scale of their residual
    streams. In a config it stands before the neck that reads the levels:
    ``neck=[dict(type="LevelLayerNorm", in_channels=[96, 192, 384, 768]), dict(type="FPN", ...)]``.

    Args:
        in_channels: channels of each map.
    """

    norm = "LN"
