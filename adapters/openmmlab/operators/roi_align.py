"""RoIAlign: the mean of the points of each bin of a box, by torchvision's operator, or their maximum."""

import torch
from torch import Tensor

from adapters.openmmlab.operators.bin_points import cells_around, corners_of_bins, points_of_bins, sample

MAXIMUM = 0
#: The maximum of a bin without a point.
NOTHING = -10000


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Write the pooled boxes.

    Args:
        input: ``(B, C, H, W)``.
        rois: ``(N, 5)``, the image's number and x1, y1, x2, y2.
        output: ``(N, C, aligned_height, aligned_width)``.
        argmax_y: of the same shape for the maximum; becomes y of the point of the maximum.
        argmax_x: becomes x of it.
        aligned_height: bins along y.
        aligned_width: bins along x.
        spatial_scale: cells of the map per unit of the boxes.
        sampling_ratio: points along a side of a bin; 0 for one per cell, rounded up.
        pool_mode: 0 for the maximum, 1 for the mean.
        aligned: a box's coordinate lies half a cell left of and above a cell's centre of the same number.
    """
    if pool_mode != MAXIMUM:
        settings = (spatial_scale, aligned_height, aligned_width, sampling_ratio, aligned)
        output.copy_(torch.ops.torchvision.roi_align(input, rois.to(input), *settings))
        return
    shift = 0.5 if aligned else 0.0
    starts, ends = (rois[:, at].float() * spatial_scale - shift for at in ([2, 1], [4, 3]))
    sides = ends - starts if aligned else (ends - starts).clamp(min=1)
    corners = corners_of_bins(starts, sides, aligned_height, aligned_width)
    features = input.float().flatten(2).transpose(1, 2)
    output.fill_(NOTHING)
    argmax_y.fill_(-1)
    argmax_x.fill_(-1)
    for boxes, y, x in points_of_bins(corners, sides, sampling_ratio, input.shape[1]):
        around = cells_around(y, x, *input.shape[2:])
        values, points = sample(*around, rois[boxes, 0].long(), features).flatten(3, 4).max(dim=3)
        output[boxes] = values.permute(0, 3, 1, 2).to(output)
        argmax_y[boxes] = y.flatten(3).gather(3, points).permute(0, 3, 1, 2).to(output)
        argmax_x[boxes] = x.flatten(3).gather(3, points).permute(0, 3, 1, 2).to(output)


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Write the gradients ``(B, C, H, W)`` of the map; the arguments are those of :func:`roi_align_forward`."""
    if pool_mode != MAXIMUM:
        sizes = (spatial_scale, aligned_height, aligned_width, *grad_input.shape, sampling_ratio, aligned)
        grad_input.copy_(torch.ops.torchvision._roi_align_backward(grad_output, rois.to(grad_output), *sizes))
        return
    channels, height, width = grad_input.shape[1:]
    cells, weights = cells_around(argmax_y, argmax_x, height, width)
    maps = rois[:, 0].long()[:, None] * channels + torch.arange(channels, device=rois.device)
    gradients = weights * (argmax_y != -1) * grad_output
    places = maps[:, :, None, None] * (height * width) + cells
    grad_input.view(-1).index_add_(0, places.flatten(), gradients.flatten().to(grad_input))
