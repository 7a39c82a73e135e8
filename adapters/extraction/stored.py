"""An image as it is stored: its size, known at once, and its values, read when they are needed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Pixels of a megapixel.
MEGAPIXEL = 1_000_000

Size = tuple[int, int]
"""Height and width in pixels."""

Pixels = NDArray[Any]
"""Pixels of an image, ``(H, W, C)``."""

#: The views of pixels that turn them upright, by the EXIF tag Orientation.
UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels),
}


class UnreadableImageError(ValueError):
    """An image that cannot be read; the message is the reason, in one line."""


@dataclass(frozen=True)
class Values:
    """The values of an image, upright.

    Attributes:
        bands: ``(H, W, C)`` of the type that is stored: colours, or bands of any kind.
        alpha: ``(H, W, 1)`` of 0..1, the opacity, or None.
        inverted: True where white is stored as 0.
    """

    bands: Pixels
    alpha: Pixels | None = None
    inverted: bool = False


@dataclass(frozen=True)
class Stored:
    """An image that is open.

    Attributes:
        size: height and width, upright.
        bands: number of its bands, without alpha.
        read: reads its values.
    """

    size: Size
    bands: int
    read: Callable[[], Values]


def fits(bands: int, channels: int) -> bool:
    """Return True if an image of ``bands`` can be fed to a model of ``channels``: grey serves as RGB, too."""
    return bands == channels or (bands, channels) == (1, 3)


def check_size(height: int, width: int, max_decoded: float) -> None:
    """Check that an image has pixels, and no more megapixels than ``max_decoded``, before it is decoded.

    Raises:
        UnreadableImageError: it has not.
    """
    if not height * width:
        raise UnreadableImageError(f"no pixels ({height} x {width})")
    if height * width > max_decoded * MEGAPIXEL:
        raise UnreadableImageError(
            f"{height * width / MEGAPIXEL:.1f} megapixels ({height} x {width}), more than are decoded: max_decoded is "
            f"{max_decoded:g}"
        )
