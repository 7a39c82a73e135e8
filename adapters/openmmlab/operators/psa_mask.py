"""The masks of point-wise spatial attention (PSANet): from a window around each cell to a map over all cells."""

import torch
from torch import Tensor

COLLECT = 0


def psamask_forward(
    input: Tensor,
    output: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Write the attention of all cells.

    Args:
        input: ``(B, h_mask * w_mask, H, W)``, a window of attention around each cell.
        output: ``(B, H * W, H, W)``; zero for cells outside the window.
        psa_type: 0 where a cell collects from the others, so that the channels are the others; 1 where it distributes.
        num_: images.
        h_feature: height of the map.
        w_feature: width of the map.
        h_mask: height of the window.
        w_mask: width of the window.
        half_h_mask: rows of the window above its cell.
        half_w_mask: columns of the window left of its cell.
    """
    others = _others(input, (h_feature, w_feature), (h_mask, w_mask), (half_h_mask, half_w_mask))
    y, x, inside, h, w = others
    windows = input.view(num_, h_mask, w_mask, h_feature, w_feature)
    attention = windows[:, y.clamp(0, h_mask - 1), x.clamp(0, w_mask - 1), h, w] * inside
    if psa_type != COLLECT:
        attention = attention.permute(0, 3, 4, 1, 2)
    output.copy_(attention.reshape(output.shape))


def psamask_backward(
    grad_output: Tensor,
    grad_input: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Write the gradients of the windows, ``(B, h_mask * w_mask, H, W)``; see :func:`psamask_forward`."""
    gradients = grad_output.reshape(num_, h_feature, w_feature, h_feature, w_feature)
    if psa_type != COLLECT:
        gradients = gradients.permute(0, 3, 4, 1, 2)
    others = _others(grad_input, (h_feature, w_feature), (h_mask, w_mask), (half_h_mask, half_w_mask))
    y, x, inside, h, w = others
    windows = grad_input.view(num_, h_mask, w_mask, h_feature, w_feature).zero_()
    windows.index_put_(
        (
            torch.arange(num_, device=y.device).view(-1, 1, 1, 1, 1),
            y.clamp(0, h_mask - 1),
            x.clamp(0, w_mask - 1),
            h,
            w,
        ),
        (gradients * inside).contiguous(),
        accumulate=True,
    )


def _others(like: Tensor, size: tuple[int, int], window: tuple[int, int], half: tuple[int, int]) -> tuple[Tensor, ...]:
    """Find each other cell's place in the window around a cell.

    Returns:
        Row and column in the window, whether they lie in it, and row and column of the cell; they broadcast to
        ``(H, W, H, W)``, the other cell first.
    """
    rows, columns = (torch.arange(count, device=like.device) for count in size)
    h, w = rows.view(1, 1, -1, 1), columns.view(1, 1, 1, -1)
    y = rows.view(-1, 1, 1, 1) - h + half[0]
    x = columns.view(1, -1, 1, 1) - w + half[1]
    inside = (y >= 0) & (y < window[0]) & (x >= 0) & (x < window[1])
    return y, x, inside, h, w
