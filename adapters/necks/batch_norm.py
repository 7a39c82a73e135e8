"""Batch norm of a backbone's maps: what a linear probe has before its 1x1 convolution."""

from collections.abc import Sequence

from torch import Tensor, nn

from adapters.registry import register_model


@register_model
class LevelBatchNorm(nn.Module):
    """A neck that normalises each map over the batch, and changes neither channels nor sizes.

    A frozen backbone's channels differ in scale by orders of magnitude; with this neck and a 1x1 convolution after it
    (mmseg's ``FCNHead`` without convolutions of its own) the probe is the linear one of DINOv2 and DINOv3
    (arXiv 2508.10104).

    Args:
        in_channels: channels of each map.
    """

    def __init__(self, in_channels: Sequence[int]) -> None:
        super().__init__()
        self.in_channels = tuple(in_channels)
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for channels in self.in_channels)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps ``(B, C_i, h_i, w_i)`` to maps of the same shapes.

        Raises:
            ValueError: the maps have other channels than ``in_channels``.
        """
        got = tuple(feature_map.shape[1] for feature_map in maps)
        if got != self.in_channels:
            raise ValueError(f"LevelBatchNorm got maps of {got} channels but its in_channels are {self.in_channels}.")
        return tuple(norm(feature_map) for norm, feature_map in zip(self.norms, maps, strict=True))
