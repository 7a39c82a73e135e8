"""The only spatial arithmetic of the package: pad an image to a multiple, crop a map to a stride."""

import torch
import torch.nn.functional as F
from torch import Tensor


def pad_to_multiple(image: Tensor, multiple: int, margins: tuple[int, int] = (0, 0)) -> Tensor:
    """Pad with zeros, right and bottom, until both sides are multiples of ``multiple``, then on all sides by margins.

    Args:
        image: ``(B, C, H, W)``, any ``H, W >= 1``.
        multiple: the least common multiple of what the trunk can divide, in pixels.
        margins: pixels before (left and top) and after (right and bottom), for trunks that lose cells at the borders.

    Returns:
        ``(B, C, H', W')``; the image itself where there is nothing to pad, unless a graph for any size is traced.
    """
    height, width = image.shape[-2:]
    before, after = margins
    bottom, right = -height % multiple + after, -width % multiple + after
    needed = torch.compiler.is_compiling() or bottom or right or before
    return F.pad(image, (before, right, before, bottom)) if needed else image


def crop_to_stride(feature_map: Tensor, image_size: tuple[int, int], stride: int, dtype: torch.dtype) -> Tensor:
    """Keep the cells that the unpadded image reaches.

    Args:
        feature_map: ``(B, C, h, w)`` with ``h >= ceil(H / stride)`` and ``w >= ceil(W / stride)``.
        image_size: ``(H, W)`` before padding.
        stride: pixels per cell.
        dtype: of the image; autocast may have left the map in another one.

    Returns:
        Contiguous ``(B, C, ceil(H / stride), ceil(W / stride))``.
    """
    height, width = (-(-side // stride) for side in image_size)
    return feature_map[..., :height, :width].to(dtype).contiguous()
