"""RoIPool: the maximum of the cells of each bin of a box, whose bins are rounded outwards."""

import torch
from torch import Tensor


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Write the maxima of the bins. torchvision's operator is another one: it rounds the boxes first.

    Args:
        input: ``(B, C, H, W)``.
        rois: ``(N, 5)``, the image's number and x1, y1, x2, y2. A box without an area is passed over.
        output: ``(N, C, pooled_height, pooled_width)``; 0 for a bin without a cell.
        argmax: of the same shape; becomes ``y * W + x`` of the maximum, and -1 for a bin without a cell.
        pooled_height: bins along y.
        pooled_width: bins along x.
        spatial_scale: cells of the map per unit of the boxes.
    """
    height, width = input.shape[2:]
    starts = rois[:, 1:3].float() * spatial_scale
    sides = (rois[:, 3:5].float() + 1) * spatial_scale - starts
    columns = _bins(starts[:, 0], sides[:, 0], pooled_width, width)
    rows = _bins(starts[:, 1], sides[:, 1], pooled_height, height)
    images = rois[:, 0].long().tolist()
    for box in (sides > 0).all(dim=1).nonzero()[:, 0].tolist():
        for row, (y1, y2) in enumerate(rows[box]):
            for column, (x1, x2) in enumerate(columns[box]):
                bin_of_box = (box, slice(None), row, column)
                if y2 <= y1 or x2 <= x1:
                    output[bin_of_box], argmax[bin_of_box] = 0, -1
                    continue
                output[bin_of_box], cells = input[images[box], :, y1:y2, x1:x2].flatten(1).max(dim=1)
                y, x = y1 + cells // (x2 - x1), x1 + cells % (x2 - x1)
                argmax[bin_of_box] = (y * width + x).to(argmax.dtype)


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Add the gradients ``(N, C, pooled_height, pooled_width)`` to the cells ``(B, C, H, W)`` of the maxima."""
    channels, height, width = grad_input.shape[1:]
    maps = rois[:, 0].long()[:, None] * channels + torch.arange(channels, device=rois.device)
    cells = maps[:, :, None, None] * (height * width) + argmax
    found = argmax >= 0
    grad_input.view(-1).index_add_(0, cells[found], grad_output[found])


def _bins(starts: Tensor, sides: Tensor, count: int, cells: int) -> list[list[tuple[int, int]]]:
    """Cut a side of each box, ``(N,)``, into bins of whole cells of the map; neighbours may share a cell."""
    edges = torch.arange(count + 1, device=starts.device) * (sides / count)[:, None] + starts[:, None]
    firsts = edges[:, :-1].floor().clamp(0, cells).long()
    ends = edges[:, 1:].ceil().clamp(0, cells).long()
    return torch.stack((firsts, ends), dim=2).tolist()
