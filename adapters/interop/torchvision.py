"""An adapter as the backbone of torchvision's detectors: FasterRCNN, MaskRCNN, RetinaNet, FCOS."""

from collections import OrderedDict

from torch import Tensor, nn
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, FeaturePyramidNetwork, LastLevelMaxPool

from adapters.base import BackboneAdapter
from adapters.interop.strides import check_doubling


class TorchvisionBackbone(nn.Module):
    """The maps of an adapter as torchvision's detectors take them, behind torchvision's FPN or as they are.

    A detector takes as many sizes of anchors as there are maps. By default there is one more than the adapter's, as
    FasterRCNN and MaskRCNN want it; RetinaNet and FCOS go with strides 8, 16, 32 and two more.

    Args:
        adapter: its strides are powers of two, each twice the one before.
        fpn_channels: channels of the FPN. None hands the maps on as they are, those of an adapter with a pyramid.
        extra_blocks: what the FPN adds, such as ``LastLevelP6P7(256, 256)``. Default: ``LastLevelMaxPool()``.

    Raises:
        ValueError: the adapter gives other strides; or without an FPN, several numbers of channels, or extra blocks.
    """

    #: Channels of every map, which torchvision's detectors ask for.
    out_channels: int

    def __init__(
        self,
        adapter: BackboneAdapter,
        fpn_channels: int | None = 256,
        extra_blocks: ExtraFPNBlock | None = None,
    ) -> None:
        super().__init__()
        check_doubling(adapter, "torchvision")
        self.adapter = adapter
        channels = [level.channels for level in adapter.levels]
        self.fpn: nn.Module | None = None
        if fpn_channels is not None:
            self.fpn = FeaturePyramidNetwork(channels, fpn_channels, extra_blocks or LastLevelMaxPool())
            self.out_channels = fpn_channels
            return
        if len(set(channels)) > 1:
            raise ValueError(
                f"fpn_channels=None needs maps of the same channels, but {adapter.model_name} gives {channels}; set "
                "fpn_channels=256."
            )
        if extra_blocks is not None:
            raise ValueError(
                f"fpn_channels=None leaves no FPN for extra_blocks={type(extra_blocks).__name__}; set "
                "fpn_channels=256, or build the adapter with pyramid=dict(type='SimpleFeaturePyramid', "
                "extra_level=True)."
            )
        self.out_channels = channels[0]

    def forward(self, image: Tensor) -> "OrderedDict[str, Tensor]":
        """Compute ``(B, C, ceil(H / stride), ceil(W / stride))`` of ``(B, 3, H, W)``, named ``'0'``, ``'1'``, ..."""
        maps = OrderedDict((str(place), feature_map) for place, feature_map in enumerate(self.adapter(image)))
        return maps if self.fpn is None else self.fpn(maps)
