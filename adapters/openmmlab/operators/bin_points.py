"""The points at which the bins of boxes sample a map, and the bilinear weights of the cells around a point."""

from collections.abc import Iterator

import torch
from torch import Tensor

#: Values that are sampled at once.
VALUES_AT_ONCE = 2**23


def points_of_bins(
    corners: Tensor, sides: Tensor, sampling_ratio: int, channels: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield the points of boxes whose bins have equally many, some boxes at a time.

    Args:
        corners: ``(N, 2, rows, columns)``, y and x of each bin's upper left corner.
        sides: ``(N, 2)``, height and width of each box.
        sampling_ratio: points along a side of a bin; 0 for one per cell of the map, rounded up.
        channels: of the map.

    Yields:
        Numbers of the boxes, ``(n,)``, and y and x of their points, ``(n, rows, columns, points_y, points_x)``. A box
        without a point is left out.
    """
    rows, columns = corners.shape[2:]
    sides_of_bins = sides / sides.new_tensor([rows, columns])
    if sampling_ratio > 0:
        counts = torch.full_like(sides, sampling_ratio).long()
    else:
        counts = sides_of_bins.ceil().long().clamp(min=0)
    for count in counts.unique(dim=0).tolist():
        if 0 in count:
            continue
        alike = (counts == counts.new_tensor(count)).all(dim=1).nonzero()[:, 0]
        at_once = max(1, VALUES_AT_ONCE // (rows * columns * count[0] * count[1] * channels))
        for boxes in alike.split(at_once):
            steps_y, steps_x = (
                ((torch.arange(number, device=sides.device) + 0.5) * sides_of_bins[boxes, axis, None] / number)
                for axis, number in enumerate(count)
            )
            y = corners[boxes, 0, :, :, None, None] + steps_y[:, None, None, :, None]
            x = corners[boxes, 1, :, :, None, None] + steps_x[:, None, None, None, :]
            yield boxes, *torch.broadcast_tensors(y, x)


def corners_of_bins(starts: Tensor, sides: Tensor, rows: int, columns: int) -> Tensor:
    """Compute y and x of the bins' upper left corners, ``(N, 2, rows, columns)``.

    Args:
        starts: ``(N, 2)``, y and x of each box's upper left corner, in cells of the map.
        sides: ``(N, 2)``, height and width.
        rows: bins along y.
        columns: bins along x.
    """
    steps = torch.stack(
        torch.meshgrid(
            torch.arange(rows, device=starts.device), torch.arange(columns, device=starts.device), indexing="ij"
        )
    )
    return starts[:, :, None, None] + steps * (sides / sides.new_tensor([rows, columns]))[:, :, None, None]


def cells_around(y: Tensor, x: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Find the four cells around points of any shape, and the weights by which they are interpolated.

    A point beyond the border by one cell or less counts as on it; one further out has no weight.

    Returns:
        Numbers of the cells, ``y * width + x``, and their weights, each ``(4, ...)``: the upper left cell, the upper
        right, the lower left, the lower right.
    """
    inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    (top, bottom, down), (left, right, along) = _neighbours(y, height), _neighbours(x, width)
    cells = torch.stack([row * width + column for row in (top, bottom) for column in (left, right)])
    weights = torch.stack([part_y * part_x for part_y in (1 - down, down) for part_x in (1 - along, along)])
    return cells, weights * inside


def _neighbours(position: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the cells before and after positions of any shape on one axis, and the fraction of the way between."""
    position = position.clamp(0, count - 1)
    before = position.long()
    return before, (before + 1).clamp(max=count - 1), position - before


def sample(cells: Tensor, weights: Tensor, images: Tensor, features: Tensor) -> Tensor:
    """Interpolate the features at the points of boxes.

    Args:
        cells: ``(4, n, ...)`` of :func:`cells_around`.
        weights: of the same shape.
        images: ``(n,)``, the image of each box.
        features: ``(B, H * W, C)``.

    Returns:
        ``(n, ..., C)``.
    """
    images = images.view(-1, *[1] * (cells.ndim - 2))
    total = features.new_zeros(*cells.shape[1:], features.shape[2])
    for cell, weight in zip(cells, weights, strict=True):
        total += weight.unsqueeze(-1) * features[images, cell]
    return total


def scatter(cells: Tensor, weights: Tensor, images: Tensor, gradients: Tensor, total: Tensor) -> None:
    """Add the gradients of :func:`sample`, ``(n, ..., C)``, to those of the features, ``(B, H * W, C)``."""
    images = images.view(-1, *[1] * (cells.ndim - 2))
    for cell, weight in zip(cells, weights, strict=True):
        total.index_put_((images, cell), weight.unsqueeze(-1) * gradients, accumulate=True)
