"""Images before a model and maps after it: resizing, normalising and padding in numpy."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .boxes import Array, float32


def resize(maps: Array, size: Sequence[int], align_corners: bool = False) -> Array:
    """Resize the last two axes bilinearly, as torch's ``interpolate`` does: ``(..., h, w)`` -> ``(..., H, W)``."""
    for axis, side in ((-2, size[0]), (-1, size[1])):
        if maps.shape[axis] == side:
            continue
        lower, upper, share = _neighbours(maps.shape[axis], side, align_corners)
        share = share[:, None] if axis == -2 else share
        maps = np.take(maps, lower, axis) * (1 - share) + np.take(maps, upper, axis) * share
    return maps


def _neighbours(cells: int, side: int, align_corners: bool) -> tuple[Array, Array, Array]:
    """Return for each of ``side`` places the cells before and after it, and the share of the latter."""
    if align_corners:
        places = np.arange(side, dtype=np.float32) * np.float32((cells - 1) / max(side - 1, 1))
    else:
        half = np.float32(0.5)
        places = np.maximum((np.arange(side, dtype=np.float32) + half) * np.float32(cells / side) - half, 0)
    lower = np.minimum(places.astype(np.int64), cells - 1)
    return lower, np.minimum(lower + 1, cells - 1), (places - lower).astype(np.float32)


def fit(image: Array, settings: dict[str, Any]) -> Array:
    """Resize an image ``(H, W, 3)`` to the size at which the config tests, and pad it as the config does.

    The pixels are those of OpenCV up to one level of 255.
    """
    for step in settings["test"]:
        if step["type"] == "resize":
            size = _scaled_size(image.shape[:2], step["scale"], step["keep_ratio"])
            resized = resize(image.transpose(2, 0, 1).astype(np.float32), size)
            image = np.rint(resized).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
        else:
            height, width = (max(*sides) for sides in zip(step["size"], image.shape[:2], strict=True))
            canvas = np.full((height, width, image.shape[2]), step["value"], image.dtype)
            canvas[: image.shape[0], : image.shape[1]] = image
            image = canvas
    return image


def _scaled_size(size: Sequence[int], scale: Sequence[int], keep_ratio: bool) -> tuple[int, int]:
    """Return ``(H, W)`` of an image at a scale: within the long and the short side, or width and height."""
    if not keep_ratio:
        return scale[1], scale[0]
    factor = min(max(scale) / max(size), min(scale) / min(size))
    return int(size[0] * factor + 0.5), int(size[1] * factor + 0.5)


def prepare(images: Sequence[Array], settings: dict[str, Any]) -> Array:
    """Make a batch of images of one size, ``(H, W, C)`` each, of pixels 0 to 255, as the graph takes it.

    Args:
        images: with the channels in the order of ``channel_order``.
        settings: of the metadata's ``images``.

    Returns:
        ``(B, C, H', W')``, float32, normalised and padded right and bottom.
    """
    batch = np.stack(images).transpose(0, 3, 1, 2).astype(np.float32)
    if settings["mean"]:
        mean, std = (float32(settings[key])[:, None, None] for key in ("mean", "std"))
        batch = (batch - mean) / std
    height, width = batch.shape[2:]
    bottom, right = padded_size((height, width), settings)
    pads = ((0, 0), (0, 0), (0, bottom - height), (0, right - width))
    return np.ascontiguousarray(np.pad(batch, pads, constant_values=settings["pad_value"]))


def padded_size(size: tuple[int, int], settings: dict[str, Any]) -> tuple[int, int]:
    """Return ``(H, W)`` to which an image is padded: a fixed size, or the next multiple of a divisor."""
    if settings["padded_size"]:
        return max(size[0], settings["padded_size"][0]), max(size[1], settings["padded_size"][1])
    divisor = settings["size_divisor"]
    return -(-size[0] // divisor) * divisor, -(-size[1] // divisor) * divisor
