"""Adaptive average pooling at free sizes, for the pyramid pooling of UPerNet and PSPNet.

Its regions depend on the size of the map, and ONNX has no operator for them. The means of the rows and columns of each
region are two small matrices, computed from the size.
"""

import torch
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


def free_pooling(model: nn.Module) -> None:
    """Replace adaptive pooling to more than one cell in a copy of a model that is to be exported, in place."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.AdaptiveAvgPool2d):
                size = child.output_size
                height, width = (size, size) if isinstance(size, int) else size
                if height is not None and width is not None and (height, width) != (1, 1):
                    setattr(module, name, FreeAdaptiveAvgPool2d((height, width)))
