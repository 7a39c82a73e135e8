"""Layers of mmseg's heads that compute with numbers of pixels, in a form for any size.

Adaptive pooling (the pyramid pooling of UPerNet and PSPNet) averages over regions that depend on the size of the map,
for which ONNX has no operator: the means of rows and of columns are two small matrices, computed from the size.
``Upsample`` (Semantic FPN) turns the new size into a Python number, which a trace would keep for all images.
"""

from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from mmseg.models.utils import Upsample
from torch import Tensor, nn


class FreeAdaptiveAvgPool2d(nn.Module):
    """torch's ``AdaptiveAvgPool2d`` as two products of matrices.

    Args:
        size: ``(h, w)`` of the result.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """Average ``(B, C, H, W)`` over regions: ``(B, C, h, w)``."""
        rows, columns = (_regions(cells, side, x) for cells, side in zip(x.shape[-2:], self.size, strict=True))
        return rows @ x @ columns.transpose(0, 1)


def _regions(cells: int, count: int, like: Tensor) -> Tensor:
    """Weigh the cells of each of ``count`` regions, ``(count, cells)``; neighbours may share a cell."""
    index = torch.arange(count, device=like.device)[:, None]
    first, end = index * cells // count, ((index + 1) * cells + count - 1) // count
    cell = torch.arange(cells, device=like.device)
    is_inside = ((cell >= first) & (cell < end)).to(like.dtype)
    return is_inside / is_inside.sum(1, keepdim=True)


class FreeUpsample(nn.Module):
    """mmseg's ``Upsample`` by a factor.

    Args:
        upsample: mmseg's.
    """

    def __init__(self, upsample: Upsample) -> None:
        super().__init__()
        self.factor = Fraction(upsample.scale_factor)
        self.options = {"mode": upsample.mode, "align_corners": upsample.align_corners}

    def forward(self, x: Tensor) -> Tensor:
        """Resize ``(B, C, H, W)`` to the sides times the factor, rounded down."""
        sides = [side * self.factor.numerator // self.factor.denominator for side in x.shape[-2:]]
        return F.interpolate(x, size=sides, **self.options)


def free_sizes(model: nn.Module) -> None:
    """Replace such layers in a copy of a model that is to be exported, in place."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.AdaptiveAvgPool2d):
                size: Any = child.output_size
                height, width = (size, size) if isinstance(size, int) else size
                if height is not None and width is not None and (height, width) != (1, 1):
                    setattr(module, name, FreeAdaptiveAvgPool2d((height, width)))
            elif isinstance(child, Upsample) and isinstance(child.scale_factor, float) and not child.size:
                setattr(module, name, FreeUpsample(child))
