"""Multi-scale deformable attention (Deformable DETR, arXiv 2010.04159, equation 3) without a compiled operator.

Each query reads a few points of each level's map, bilinearly and with zeros beyond the border, and adds them up by its
attention weights. Every point lies between four cells, so a query's result is a weighted sum of rows of one table:
``embedding_bag`` computes it without the samples ever being in memory. The backward pass computes the rows and weights
anew. Both go through the queries in chunks that stay in the caches.

Where something traces, exports, counts or transforms the pass, and on devices other than CPUs and NVIDIA's, the same is
written out with ``grid_sample``.
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

#: Cells that the points of a chunk of queries lie between.
CELLS_AT_ONCE = 2**18

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
    if not _takes_bags(value):
        result = _sample(tensors[0], sizes, *tensors[1:])
    elif use_mmcv and value.is_cuda and (operator := _find_operator_of_mmcv()) is not None:
        result = operator(tensors[0], sizes, *tensors[1:])
    else:
        result = _Bags.apply(tensors[0], tuple(sizes), *tensors[1:])
    return result.to(dtype)


def _takes_bags(value: Tensor) -> bool:
    """Tell whether the values, of any shape, are a plain tensor on a CPU or an NVIDIA GPU, in a pass of eager mode."""
    return type(value) is Tensor and value.device.type in ("cpu", "cuda") and is_eager()


def _sample(value: Tensor, sizes: Sequence[Size], locations: Tensor, weights: Tensor) -> Tensor:
    """Compute the attention by operators that every device and format has, from and to the same shapes."""
    batch, _, heads, channels = value.shape
    queries = locations.shape[1]
    maps = value.split([height * width for height, width in sizes], dim=1)
    locations, weights = (x.transpose(1, 2).flatten(0, 1) for x in (locations, weights))
    total: Tensor | None = None
    for level, (height, width) in enumerate(sizes):
        cells = maps[level].permute(0, 2, 3, 1).reshape(batch * heads, channels, height, width)
        grid = locations[:, :, level] * 2 - 1
        samples = F.grid_sample(cells, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        some = (samples * weights[:, None, :, level]).sum(-1)
        total = some if total is None else total + some
    assert total is not None, "there is at least one level"
    return total.view(batch, heads * channels, queries).transpose(1, 2).contiguous()


class _Bags(Function):
    """The attention as weighted sums of rows of a table, ``(B * N * heads, d)``."""

    @staticmethod
    def forward(value: Tensor, sizes: tuple[Size, ...], locations: Tensor, weights: Tensor) -> Tensor:
        table = value.reshape(-1, value.shape[-1])
        result = value.new_empty(*locations.shape[:2], value.shape[2] * value.shape[3])
        for chunk in _chunks(weights):
            rows, factors = _rows_and_factors(value, sizes, locations[:, chunk], weights[:, chunk])
            sums = F.embedding_bag(rows, table, per_sample_weights=factors, mode="sum")
            result[:, chunk] = sums.view(len(value), -1, result.shape[-1])
        return result

    @staticmethod
    def setup_context(context: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        value, context.sizes, locations, weights = inputs
        context.save_for_backward(value, locations, weights)

    @staticmethod
    @once_differentiable
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        value, locations, weights = context.saved_tensors
        table = value.reshape(-1, value.shape[-1])
        of_table = torch.zeros_like(table) if context.needs_input_grad[0] else None
        of_locations, of_weights = torch.empty_like(locations), torch.empty_like(weights)
        for chunk in _chunks(weights):
            gradient = gradients[0][:, chunk].reshape(-1, table.shape[1])
            with torch.enable_grad():
                some = locations[:, chunk].detach().requires_grad_(), weights[:, chunk].detach().requires_grad_()
                rows, factors = _rows_and_factors(value, context.sizes, *some)
                sums = F.embedding_bag(rows, table, per_sample_weights=factors, mode="sum")
            of_locations[:, chunk], of_weights[:, chunk] = torch.autograd.grad(sums, some, gradient)
            if of_table is not None:
                parts = factors.detach().unsqueeze(-1) * gradient.unsqueeze(1)
                of_table.index_add_(0, rows.flatten(), parts.flatten(0, 1))
        return None if of_table is None else of_table.view_as(value), None, of_locations, of_weights


def _chunks(weights: Tensor) -> list[slice]:
    """Cut the queries of weights ``(B, Q, heads, levels, points)`` into chunks of ``CELLS_AT_ONCE``."""
    queries = weights.shape[1]
    length = max(1, CELLS_AT_ONCE * queries // max(1, 4 * weights.numel()))
    return [slice(first, first + length) for first in range(0, queries, length)]


def _rows_and_factors(
    value: Tensor, sizes: Sequence[Size], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Find the rows of the table that each query reads, and their factors, ``(B * q * heads, levels * points * 4)``."""
    batch, cells, heads, _ = value.shape
    rows, factors, start = [], [], 0
    for level, (height, width) in enumerate(sizes):
        column, across = _neighbours(locations[:, :, :, level, :, 0], width)
        line, down = _neighbours(locations[:, :, :, level, :, 1], height)
        rows.append((line.unsqueeze(-1) * width + column.unsqueeze(-2) + start).flatten(-3))
        products = down.unsqueeze(-1) * across.unsqueeze(-2) * weights[:, :, :, level, :, None, None]
        factors.append(products.flatten(-3))
        start += height * width
    image = torch.arange(batch, device=value.device).view(batch, 1, 1, 1) * (cells * heads)
    head = torch.arange(heads, device=value.device).view(heads, 1)
    return (torch.cat(rows, -1) * heads + image + head).flatten(0, 2), torch.cat(factors, -1).flatten(0, 2)


def _neighbours(position: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Find the two cells of an axis around each position (0 to 1), and the part that each has, nothing beyond the ends.

    Returns:
        Cells and parts, each of the position's shape with an axis of two behind it.
    """
    position = position * count - 0.5
    first = position.detach().floor()
    part = position - first
    cells = torch.stack((first, first + 1), -1)
    parts = torch.stack((1 - part, part), -1) * ((cells >= 0) & (cells < count))
    # NaN has no cell: as integers they stay in the table, and the part says NaN.
    return cells.long().clamp(0, count - 1), parts


@functools.cache
def _find_operator_of_mmcv() -> Callable[..., Tensor] | None:
    """Return mmcv's compiled operator behind the arguments of ``_sample``; None where mmcv has none for GPUs."""
    try:
        from mmcv.ops.multi_scale_deform_attn import IS_CUDA_AVAILABLE, MultiScaleDeformableAttnFunction
    except ImportError:  # no mmcv, or one without compiled operators
        return None
    if not IS_CUDA_AVAILABLE:
        return None

    def run(value: Tensor, sizes: Sequence[Size], locations: Tensor, weights: Tensor) -> Tensor:
        shapes = torch.tensor(sizes, device=value.device)
        starts = torch.cat((shapes.new_zeros(1), shapes.prod(1).cumsum(0)[:-1]))
        images_at_once = len(value)
        return MultiScaleDeformableAttnFunction.apply(value, shapes, starts, locations, weights, images_at_once)

    return run
