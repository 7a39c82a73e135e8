"""Multi-scale deformable attention (Deformable DETR, arXiv 2010.04159, equation 3) without a compiled operator.

Each query reads a few points of each level's map, bilinearly and with zeros beyond the border, and adds them up by its
attention weights. Both passes go through the queries in chunks whose samples stay in the caches, and the backward pass
samples anew: between them, the inputs alone are kept.

Where something traces, exports, counts or transforms the pass, the same operators run without the chunks.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
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
    batch, _, heads, channels = value.shape
    total: Tensor | None = None
    for cells, grid, factors in _levels(value, sizes, locations, weights):
        some = (_grid_sample(cells, grid) * factors.unsqueeze(1)).sum(2)
        total = some if total is None else total + some
    assert total is not None, "there is at least one level"
    return total.view(batch, heads * channels, locations.shape[1]).transpose(1, 2).contiguous()


class _Chunked(Function):
    """The attention in chunks of queries."""

    @staticmethod
    def forward(value: Tensor, sizes: tuple[Size, ...], locations: Tensor, weights: Tensor) -> Tensor:
        result = value.new_empty(*locations.shape[:2], value.shape[2] * value.shape[3])
        for chunk in _chunks(weights):
            result[:, chunk] = _sample(value, sizes, locations[:, chunk], weights[:, chunk])
        return result

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
    batch, _, heads, channels = value.shape
    points = weights.shape[-1]
    of_locations, of_weights = torch.empty_like(locations), torch.empty_like(weights)
    of_maps = [value.new_zeros(batch * heads, channels, *size) for size in sizes]
    for chunk in _chunks(weights):
        of_chunk = gradient[:, chunk].transpose(1, 2).reshape(batch * heads, channels, 1, -1)
        levels = _levels(value, sizes, locations[:, chunk], weights[:, chunk])
        for level, (cells, grid, factors) in enumerate(levels):
            with torch.enable_grad():
                inputs = cells.detach().requires_grad_(), grid.detach().requires_grad_()
                samples = _grid_sample(*inputs)
            of_factors = (samples.detach() * of_chunk).sum(1)
            of_cells, of_grid = torch.autograd.grad(samples, inputs, of_chunk * factors.unsqueeze(1))
            of_maps[level] += of_cells
            of_weights[:, chunk, :, level] = of_factors.view(batch, heads, points, -1).permute(0, 3, 1, 2)
            of_grid = of_grid.view(batch, heads, points, -1, 2).permute(0, 3, 1, 2, 4)
            of_locations[:, chunk, :, level] = 2 * of_grid
    of_value = [of_map.view(batch, heads, channels, -1).permute(0, 3, 1, 2) for of_map in of_maps]
    return torch.cat(of_value, dim=1), of_locations, of_weights


def _chunks(weights: Tensor) -> list[slice]:
    """Cut the queries of weights ``(B, Q, heads, levels, points)`` into chunks of ``POINTS_AT_ONCE``."""
    batch, queries, heads, _, points = weights.shape
    length = max(1, POINTS_AT_ONCE // max(1, batch * heads * points))
    return [slice(first, first + length) for first in range(0, queries, length)]


def _levels(
    value: Tensor, sizes: Sequence[Size], locations: Tensor, weights: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield maps ``(B * heads, d, h, w)``, locations ``(B * heads, points, Q, 2)`` and weights of the levels."""
    batch, _, heads, channels = value.shape
    maps = value.split([height * width for height, width in sizes], dim=1)
    grids = (locations * 2 - 1).permute(3, 0, 2, 4, 1, 5).flatten(1, 2)
    factors = weights.permute(3, 0, 2, 4, 1).flatten(1, 2)
    for level, (height, width) in enumerate(sizes):
        cells = maps[level].permute(0, 2, 3, 1).reshape(batch * heads, channels, height, width)
        yield cells, grids[level], factors[level]


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
