"""Deformable RoI pooling (arXiv 1703.06211): the mean of the points of each bin, moved by an offset of its own."""

import torch
from torch import Tensor

from adapters.openmmlab.operators.bin_points import cells_around, corners_of_bins, points_of_bins, sample, scatter


def deform_roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Write the pooled boxes.

    Args:
        input: ``(B, C, H, W)``.
        rois: ``(N, 5)``, the image's number and x1, y1, x2, y2.
        offset: ``(N, 2, pooled_height, pooled_width)``, x and y in sides of the box; ``(0,)`` for none.
        output: ``(N, C, pooled_height, pooled_width)``.
        pooled_height: bins along y.
        pooled_width: bins along x.
        spatial_scale: cells of the map per unit of the boxes.
        sampling_ratio: points along a side of a bin; 0 for one per cell, rounded up.
        gamma: factor of the offsets.
    """
    corners, sides = _place(rois, offset, (pooled_height, pooled_width), spatial_scale, gamma)
    features = input.float().flatten(2).transpose(1, 2)
    output.zero_()
    for boxes, y, x in points_of_bins(corners, sides, sampling_ratio, input.shape[1]):
        around = cells_around(y, x, *input.shape[2:])
        values = sample(*around, rois[boxes, 0].long(), features).mean(dim=(3, 4))
        output[boxes] = values.permute(0, 3, 1, 2).to(output)


def deform_roi_pool_backward(
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Write the gradients of the map, ``(B, C, H, W)``, and of the offsets, if any.

    Where a point lies beyond the border, the gradient of its place is the compiled operator's, which goes on as inside.
    """
    size = input.shape[2:]
    corners, sides = _place(rois, offset, (pooled_height, pooled_width), spatial_scale, gamma)
    features = input.float().flatten(2).transpose(1, 2)
    of_features = torch.zeros_like(features)
    for boxes, y, x in points_of_bins(corners, sides, sampling_ratio, input.shape[1]):
        images = rois[boxes, 0].long()
        cells, weights = cells_around(y, x, *size)
        gradients = grad_output[boxes].float().permute(0, 2, 3, 1)[:, :, :, None, None] / y[0, 0, 0].numel()
        scatter(cells, weights, images, gradients, of_features)
        if offset.numel():
            slopes = _slopes(cells, y, x, size) * (weights.sum(0) > 0)
            by_place = [(sample(cells, slope, images, features) * gradients).sum((3, 4, 5)) for slope in slopes]
            grad_offset[boxes] = (gamma * sides[boxes].flip(1)[:, :, None, None] * torch.stack(by_place, 1)).to(offset)
    grad_input.copy_(of_features.transpose(1, 2).reshape(input.shape))


def _place(
    rois: Tensor, offset: Tensor, bins: tuple[int, int], spatial_scale: float, gamma: float
) -> tuple[Tensor, Tensor]:
    """Compute the corners of the moved bins, ``(N, 2, rows, columns)``, and the boxes' sides, ``(N, 2)``."""
    starts, ends = (rois[:, at].float() * spatial_scale - 0.5 for at in ([2, 1], [4, 3]))
    sides = ends - starts
    corners = corners_of_bins(starts, sides, *bins)
    if offset.numel():
        corners = corners + gamma * sides[:, :, None, None] * offset.float().flip(1)
    return corners, sides


def _slopes(cells: Tensor, y: Tensor, x: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Compute by how much the weights of :func:`cells_around` grow along x and along y, ``(2, 4, ...)``."""
    width = size[1]
    top, left, bottom, right = cells[0] // width, cells[0] % width, cells[3] // width, cells[3] % width
    along_x = torch.stack([y - bottom, bottom - y, top - y, y - top])
    along_y = torch.stack([x - right, left - x, right - x, x - left])
    return torch.stack([along_x, along_y])
