"""CARAFE (arXiv 1905.02188): upsampling in which each pixel has a kernel of its own over the cells around it."""

from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor


def carafe_naive_forward(
    features: Tensor, masks: Tensor, output: Tensor, kernel_size: int, group_size: int, scale_factor: int
) -> None:
    """Write the upsampled map.

    Args:
        features: ``(B, C, h, w)``.
        masks: ``(B, groups * kernel_size ** 2, h * scale, w * scale)``, the kernels.
        output: ``(B, C, h * scale, w * scale)``.
        kernel_size: odd side of a kernel; cells beyond the border are zero.
        group_size: groups of channels with a kernel of their own.
        scale_factor: pixels of the output along a cell.
    """
    total = output.new_zeros(_grouped(output, group_size).shape, dtype=masks.dtype)
    for cells, weights in _taps(features, masks, kernel_size, group_size, scale_factor):
        total += _enlarge(cells, scale_factor) * weights
    output.copy_(total.view_as(output))


def carafe_naive_backward(
    top_grad: Tensor,
    features: Tensor,
    masks: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Write the gradients of features ``(B, C, h, w)`` and masks from those of the output."""
    gradient = _grouped(top_grad, group_size)
    batch, groups, channels = gradient.shape[:3]
    height, width = features.shape[2:]
    margin = kernel_size // 2
    padded = gradient.new_zeros(batch, groups, channels, height + 2 * margin, width + 2 * margin)
    of_masks = mask_grad.view(batch, groups, kernel_size**2, *mask_grad.shape[2:])
    taps = _taps(features, masks, kernel_size, group_size, scale_factor)
    for tap, (cells, weights) in enumerate(taps):
        of_masks[:, :, tap] = (_enlarge(cells, scale_factor) * gradient).sum(dim=2)
        row, column = divmod(tap, kernel_size)
        of_cells = (gradient * weights).unflatten(4, (width, -1)).unflatten(3, (height, -1)).sum(dim=(4, 6))
        padded[..., row : row + height, column : column + width] += of_cells
    inner = padded[..., margin : margin + height, margin : margin + width]
    bottom_grad.copy_(inner.reshape(bottom_grad.shape))


def carafe_forward(
    features: Tensor,
    masks: Tensor,
    rfeatures: Tensor,
    routput: Tensor,
    rmasks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Write the upsampled map as :func:`carafe_naive_forward` does, for features ``(B, C, h, w)``.

    ``rfeatures``, ``routput`` and ``rmasks`` are the compiled operator's buffers; the first keeps the features for the
    backward pass.
    """
    rfeatures.copy_(features)
    carafe_naive_forward(features, masks, output, kernel_size, group_size, scale_factor)


def carafe_backward(
    top_grad: Tensor,
    rfeatures: Tensor,
    masks: Tensor,
    rtop_grad: Tensor,
    rbottom_grad_hs: Tensor,
    rbottom_grad: Tensor,
    rmask_grad: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Write the gradients as :func:`carafe_naive_backward` does, for features ``(B, C, h, w)``."""
    carafe_naive_backward(top_grad, rfeatures, masks, bottom_grad, mask_grad, kernel_size, group_size, scale_factor)


def _taps(
    features: Tensor, masks: Tensor, kernel_size: int, group_size: int, scale_factor: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the cells ``(B, groups, c, h, w)`` under each place of the kernel, and the weights for their pixels."""
    height, width = features.shape[2:]
    padded = _grouped(F.pad(features, [kernel_size // 2] * 4), group_size)
    weights = masks.view(len(masks), group_size, kernel_size**2, 1, *masks.shape[2:])
    for tap in range(kernel_size**2):
        row, column = divmod(tap, kernel_size)
        yield padded[..., row : row + height, column : column + width], weights[:, :, tap]


def _grouped(maps: Tensor, groups: int) -> Tensor:
    return maps.unflatten(1, (groups, -1))


def _enlarge(cells: Tensor, scale: int) -> Tensor:
    return cells.repeat_interleave(scale, dim=3).repeat_interleave(scale, dim=4)
