"""Multi-scale deformable attention (Deformable DETR, arXiv 2010.04159, equation 3) without a compiled operator.

Each query reads a few points of each level's map, bilinearly and with zeros beyond the border, and adds them up by its
attention weights. Both passes go through heads and queries in chunks whose samples stay in the caches, and the second
one samples again: between them, the inputs alone are kept.

Where something traces, exports, counts or transforms the pass, the same operators run without the chunks.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from adapters.kernels.cpu import is_eager

#: Points of one level that a chunk of queries reads, over all heads and images.
POINTS_AT_ONCE = 2**16

Size = tuple[int, int]


def deformable_attention(
    value: Tensor, sizes: Sequence[Size], locations: Tensor, weights: Tensor, use_mmcv: bool = False
) -> Tensor:
    """Sample the values at the locations, and add them up by the weights.

    Args:
        value: ``(B, N, heads, d)``, the cells of all levels, row by row and one level after the other.
        sizes: ``(h, w)`` of each level; ``N`` is the sum of their products.
        locations: ``(B, Q, heads, levels, points, 2)``, x and y, 0 at the left and upper border of the map, 1 at the
            right and lower one.
        weights: ``(B, Q, heads, levels, points)``.
        use_mmcv: compute with mmcv's compiled operator, where mmcv has it and the tensors are on an NVIDIA GPU.

    Returns:
        ``(B, Q, heads * d)`` of the value's dtype; the sums are made in fp32, or in float64 where that is the dtype.
    """
    assert value.shape[1] == sum(height * width for height, width in sizes), (value.shape, sizes)
    dtype = value.dtype
    tensors = [x if x.dtype == torch.float64 else x.float() for x in (value, locations, weights)]
    if not _is_plain(value):
        result = _sample(tensors[0], sizes, *tensors[1:])
    elif use_mmcv and value.is_cuda and (operator := _find_operator_of_mmcv()) is not None:
        result = operator(tensors[0], sizes, *tensors[1:])
    else:
        result = _Chunked.apply(tensors[0], tuple(sizes), *tensors[1:])
    return result.to(dtype)


def _is_plain(value: Tensor) -> bool:
    """Tell whether the values, of any shape, are a plain tensor in a pass of eager mode."""
    return type(value) is Tensor and is_eager()


def _sample(value: Tensor, sizes: Sequence[Size], locations: Tensor, weights: Tensor) -> Tensor:
    """Compute the attention at once, from and to the same shapes."""
    return _read(_maps(value, sizes), locations, weights).flatten(2)


def _read(maps: Sequence[Tensor], locations: Tensor, weights: Tensor) -> Tensor:
    """Read maps ``(B * heads, d, h, w)`` of all levels at the locations; return the sums ``(B, Q, heads, d)``."""
    batch, queries, heads = weights.shape[:3]
    total: Tensor | None = None
    for cells, grid, factors in zip(maps, *_points(locations, weights), strict=True):
        some = (_grid_sample(cells, grid) * factors.unsqueeze(1)).sum(2)
        total = some if total is None else total + some
    assert total is not None, "there is at least one level"
    return total.view(batch, heads, total.shape[1], queries).permute(0, 3, 1, 2)


class _Chunked(Function):
    """The attention in groups of heads and chunks of queries."""

    @staticmethod
    def forward(value: Tensor, sizes: tuple[Size, ...], locations: Tensor, weights: Tensor) -> Tensor:
        result = value.new_empty(*weights.shape[:3], value.shape[3])
        for group in _groups(weights):
            maps = _maps(value[:, :, group], sizes)
            for chunk in _chunks(weights[:, :, group]):
                result[:, chunk, group] = _read(maps, locations[:, chunk, group], weights[:, chunk, group])
        return result.flatten(2)

    @staticmethod
    def setup_context(context: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        value, context.sizes, locations, weights = inputs
        context.save_for_backward(value, locations, weights)

    @staticmethod
    @once_differentiable
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        value, locations, weights = context.saved_tensors
        of_value, of_locations, of_weights = gradients_of_attention(
            value, context.sizes, locations, weights, gradients[0]
        )
        return of_value, None, of_locations, of_weights


def gradients_of_attention(
    value: Tensor, sizes: Sequence[Size], locations: Tensor, weights: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients of values, locations and weights.

    Args:
        value: ``(B, N, heads, d)``, and the others as :func:`deformable_attention` takes them, in one dtype.
        sizes: ``(h, w)`` of each level.
        locations: ``(B, Q, heads, levels, points, 2)``.
        weights: ``(B, Q, heads, levels, points)``.
        gradient: that of the result, ``(B, Q, heads * d)``.
    """
    of_sums = gradient.unflatten(2, (-1, value.shape[3]))
    of_value, of_locations, of_weights = (torch.empty_like(x) for x in (value, locations, weights))
    for group in _groups(weights):
        maps = _maps(value[:, :, group], sizes)
        of_maps = [torch.zeros_like(cells) for cells in maps]
        for chunk in _chunks(weights[:, :, group]):
            of_locations[:, chunk, group], of_weights[:, chunk, group] = _add_gradients(
                maps, locations[:, chunk, group], weights[:, chunk, group], of_sums[:, chunk, group], of_maps
            )
        cells_first = [of_map.unflatten(0, (len(value), -1)).flatten(3).permute(0, 3, 1, 2) for of_map in of_maps]
        of_value[:, :, group] = torch.cat(cells_first, dim=1)
    return of_value, of_locations, of_weights


def _add_gradients(
    maps: Sequence[Tensor], locations: Tensor, weights: Tensor, of_sums: Tensor, of_maps: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Add the gradients of maps ``(B * heads, d, h, w)``; return those of the locations and of the weights.

    Args:
        maps, locations, weights: what was read, as :func:`_read` takes them.
        of_sums: the gradient of what it returned, ``(B, Q, heads, d)``.
        of_maps: gradients like the maps, changed in place.
    """
    batch, queries, heads, _, points = weights.shape
    gradient = of_sums.permute(0, 2, 3, 1).reshape(batch * heads, -1, 1, queries)
    of_locations, of_weights = [], []
    for cells, grid, factors, of_map in zip(maps, *_points(locations, weights), of_maps, strict=True):
        with torch.enable_grad():
            inputs = cells.detach().requires_grad_(), grid.detach().requires_grad_()
            samples = _grid_sample(*inputs)
        of_factors = (samples.detach() * gradient).sum(1)
        of_cells, of_grid = torch.autograd.grad(samples, inputs, gradient * factors.unsqueeze(1))
        of_map += of_cells
        of_weights.append(of_factors.view(batch, heads, points, queries).permute(0, 3, 1, 2))
        of_locations.append(2 * of_grid.view(batch, heads, points, queries, 2).permute(0, 3, 1, 2, 4))
    return torch.stack(of_locations, dim=3), torch.stack(of_weights, dim=3)


def _groups(weights: Tensor) -> list[slice]:
    """Cut the heads of weights ``(B, Q, heads, levels, points)`` into groups: torch reads one map in each thread.

    The fewer heads at once, the longer are their chunks of queries, each of which adds to the gradient of whole maps.
    """
    heads = weights.shape[2]
    some = -(-torch.get_num_threads() // len(weights)) if weights.device.type == "cpu" and len(weights) else heads
    return [slice(first, first + some) for first in range(0, heads, some)]


def _chunks(weights: Tensor) -> list[slice]:
    """Cut the queries of weights ``(B, Q, heads, levels, points)`` into chunks of ``POINTS_AT_ONCE``."""
    batch, queries, heads, _, points = weights.shape
    length = max(1, POINTS_AT_ONCE // max(1, batch * heads * points))
    return [slice(first, first + length) for first in range(0, queries, length)]


def _maps(value: Tensor, sizes: Sequence[Size]) -> list[Tensor]:
    """Cut values ``(B, N, heads, d)`` into maps ``(B * heads, d, h, w)``, one for each level."""
    levels = value.permute(0, 2, 3, 1).flatten(0, 1).split([height * width for height, width in sizes], dim=2)
    return [cells.unflatten(2, size).contiguous() for cells, size in zip(levels, sizes, strict=True)]


def _points(locations: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return locations ``(levels, B * heads, points, Q, 2)``, -1 to 1, and weights of the same shape but the last."""
    grids = (locations * 2 - 1).permute(3, 0, 2, 4, 1, 5).flatten(1, 2)
    return grids, weights.permute(3, 0, 2, 4, 1).flatten(1, 2)


def _grid_sample(cells: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(cells, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


@functools.cache
def _find_operator_of_mmcv() -> Callable[..., Tensor] | None:
    """Return mmcv's compiled operator behind the arguments of ``_sample``; None where mmcv has none for GPUs."""
    try:
        from mmcv import _ext
        from mmcv.ops.multi_scale_deform_attn import IS_CUDA_AVAILABLE, MultiScaleDeformableAttnFunction
    except ImportError:  # no mmcv, or one without compiled operators
        return None
    if not IS_CUDA_AVAILABLE or not hasattr(_ext, "__file__"):  # what has no file is our own stand-in
        return None

    def run(value: Tensor, sizes: Sequence[Size], locations: Tensor, weights: Tensor) -> Tensor:
        shapes = torch.tensor(sizes, device=value.device)
        starts = torch.cat((shapes.new_zeros(1), shapes.prod(1).cumsum(0)[:-1]))
        images_at_once = len(value)
        return MultiScaleDeformableAttnFunction.apply(value, shapes, starts, locations, weights, images_at_once)

    return run
