"""The two steps of a convolution at some places of a map: gathering what the kernel covers, putting results back."""

import torch
import torch.nn.functional as F
from torch import Tensor


def masked_im2col_forward(
    im: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    col: Tensor,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """Write what the kernel covers at each place, ``(C * kernel_h * kernel_w, M)``.

    Args:
        im: ``(1, C, H, W)``.
        mask_h_idx: rows of the places, ``(M,)``.
        mask_w_idx: columns of the places, ``(M,)``.
        col: the result's place.
        kernel_h: rows of the kernel.
        kernel_w: columns of the kernel.
        pad_h: zeros above and below.
        pad_w: zeros left and right.
    """
    padded = F.pad(im[0], [pad_w, pad_w, pad_h, pad_h])
    rows = mask_h_idx[:, None] + torch.arange(kernel_h, device=im.device)
    columns = mask_w_idx[:, None] + torch.arange(kernel_w, device=im.device)
    covered = padded[:, rows[:, :, None], columns[:, None, :]]
    col.copy_(covered.permute(0, 2, 3, 1).reshape(col.shape))


def masked_col2im_forward(
    col: Tensor, mask_h_idx: Tensor, mask_w_idx: Tensor, im: Tensor, height: int, width: int, channels: int
) -> None:
    """Put the results ``(C, M)`` at their places in ``(1, C, H, W)``."""
    im[0, :, mask_h_idx, mask_w_idx] = col.view(channels, -1)
