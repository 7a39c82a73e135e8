"""The checks and pads of an image before the trunk runs, and the crop of its maps."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def check_image(image: Tensor, in_channels: int, model_name: str) -> None:
    """Require ``(B, C, H, W)`` of a number of channels.

    Args:
        image: of any shape.
        in_channels: the channels that the model takes.
        model_name: the model, for the message.

    Raises:
        ValueError: the image has another number of dimensions or channels.
    """
    if image.ndim != 4 or image.shape[1] != in_channels:
        raise ValueError(
            f"{model_name} takes images of shape (B, {in_channels}, H, W), got {tuple(image.shape)}; "
            "for other channels build the adapter with in_channels=..."
        )


def pad_to_multiple(image: Tensor, multiple: int, margins: tuple[int, int] = (0, 0)) -> Tensor:
    """Pad with zeros, right and bottom, until both sides are multiples of ``multiple``, then on all sides by margins.

    Args:
        image: ``(B, C, H, W)``, any ``H, W >= 1``.
        multiple: a number of pixels that the trunk can divide into its cells and windows.
        margins: pixels before (left and top) and after (right and bottom), for trunks that lose cells at the borders.

    Returns:
        ``(B, C, H', W')``; the image itself where there is nothing to pad.
    """
    before, after = margins
    bottom, right = (count_cells(side, multiple) * multiple - side + after for side in image.shape[-2:])
    # In a file for any size, nothing may depend on whether the example needed pads.
    if torch.compiler.is_exporting() or bottom or right or before:
        return F.pad(image, (before, right, before, bottom))
    return image


def count_cells(side: int, stride: int) -> int:
    """Return ``ceil(side / stride)``, written so that ONNX, which divides towards zero, computes the same."""
    return (side + stride - 1) // stride


def crop_to_stride(feature_map: Tensor, image_size: Sequence[int], stride: int, dtype: torch.dtype) -> Tensor:
    """Keep the cells that the unpadded image reaches.

    Args:
        feature_map: ``(B, C, h, w)`` with ``h >= ceil(H / stride)`` and ``w >= ceil(W / stride)``.
        image_size: ``(H, W)`` before padding.
        stride: pixels per cell.
        dtype: of the image; autocast may have left the map in another one.

    Returns:
        Contiguous ``(B, C, ceil(H / stride), ceil(W / stride))``.
    """
    for axis, side in zip((-2, -1), image_size, strict=True):
        cells = count_cells(side, stride)
        # The question is a guard of a compiled graph: without it, a slice that happens to keep everything at the size
        # of the first image is left out of Inductor's code for every size. A file for any size always has the slice.
        if torch.compiler.is_exporting():
            feature_map = _keep(feature_map, axis % feature_map.ndim, cells)
        elif feature_map.shape[axis] != cells:
            feature_map = feature_map.narrow(axis, 0, cells)
    return feature_map.to(dtype).contiguous()


# torch's own slice of a size that is a symbol gets a size about which a trace knows nothing, and what follows the
# backbone asks about it. The size of this one is the one that was asked for; files have a slice in its place.
@torch.library.custom_op("adapters::keep", mutates_args=())
def _keep(x: Tensor, axis: int, length: int) -> Tensor:
    return x.narrow(axis, 0, length).clone()


@_keep.register_fake
def _(x: Tensor, axis: int, length: int) -> Tensor:
    return x.new_empty([*x.shape[:axis], length, *x.shape[axis + 1 :]])


#: The operator, for those who write it as a slice.
KEEP = torch.ops.adapters.keep.default
