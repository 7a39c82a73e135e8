"""An adapter as a backbone of detectron2, by its methods alone: nothing of detectron2 is imported.

detectron2 asks for instances of its own class, and takes a registered one for such:
``detectron2.modeling.Backbone.register(Detectron2Backbone)``.
"""

from typing import NamedTuple

from torch import Tensor, nn

from adapters.base import BackboneAdapter
from adapters.interop.strides import check_doubling


class Shape(NamedTuple):
    """The shape of a map, with the fields of detectron2's ``ShapeSpec``; height and width depend on the image."""

    channels: int
    height: int | None
    width: int | None
    stride: int


class Detectron2Backbone(nn.Module):
    """The maps of an adapter by detectron2's names: ``res2`` of stride 4 to ``res5`` of stride 32.

    The maps of an adapter with a pyramid are called ``p2`` to ``p5``, as an FPN's, and need no FPN.

    Args:
        adapter: its strides are powers of two, each twice the one before.

    Raises:
        ValueError: the adapter gives other strides.
    """

    def __init__(self, adapter: BackboneAdapter) -> None:
        super().__init__()
        check_doubling(adapter, "detectron2")
        self.adapter = adapter
        letters = "res" if adapter.pyramid is None else "p"
        self._shapes = {
            f"{letters}{level.stride.bit_length() - 1}": Shape(level.channels, None, None, level.stride)
            for level in adapter.levels
        }

    @property
    def size_divisibility(self) -> int:
        """Zero: images of any size are taken, and padded inside."""
        return 0

    @property
    def padding_constraints(self) -> dict[str, int]:
        """Return no constraint."""
        return {}

    def output_shape(self) -> dict[str, Shape]:
        """Return channels and stride of each map by its name."""
        return dict(self._shapes)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Compute ``(B, C, ceil(H / stride), ceil(W / stride))`` of an image ``(B, 3, H, W)``, by name."""
        return dict(zip(self._shapes, self.adapter(image), strict=True))
