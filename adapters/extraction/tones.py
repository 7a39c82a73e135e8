"""Tones: the values of an image's pixels, whatever their type, scaled to 0..255."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adapters.extraction.stored import Pixels, UnreadableImageError

#: Black and white of each type that has them by custom; of others nobody can tell.
LIMITS = {"uint8": (0.0, 255.0), "uint16": (0.0, 65535.0)}
LIMITS_OF_FLOATS = (0.0, 1.0)

#: An image whose maximum is below this share of white is dark, as are 12-bit data in a 16-bit file.
DARK = 1 / 8


@dataclass(frozen=True)
class Toned:
    """An image of tones 0..255.

    Attributes:
        pixels: ``(H, W, C)``, bytes where the image was of bytes and is unchanged, else fp32.
        black: the stored value that became 0.
        white: the stored value that became 255.
    """

    pixels: Pixels
    black: float
    white: float

    def note(self) -> str | None:
        """Return a note on an image that is dark, else None."""
        if self.white <= self.black:
            return f"dark: all its pixels are {self.white:g}"
        top = float(self.pixels.max())
        if top >= 255 * DARK:
            return None
        maximum = self.black + top / 255 * (self.white - self.black)
        return f"dark: the maximum is {maximum:.6g} of {self.white:g}"


@dataclass(frozen=True)
class Tones:
    """The scale of an image's values: that of its type, up to a given white, or between percentiles of each image.

    By type, white is 255 for 8 bits, 65535 for 16 bits, and 1 for floating point.

    Attributes:
        black: the value that becomes 0 where ``white`` is given.
        white: the value that becomes 255, in images whose type can hold it: 4095 leaves images of 8 bits as they are.
        percentiles: two percentiles of an image's values, of all its bands together, that become 0 and 255.

    Raises:
        ValueError: a value that is not allowed.
    """

    black: float = 0.0
    white: float | None = None
    percentiles: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for name, values in (
            ("black", (self.black,)),
            ("white", (self.white,)),
            ("percentiles", self.percentiles or ()),
        ):
            if not all(value is None or isinstance(value, int | float) for value in values):
                raise ValueError(f"{name}={getattr(self, name)!r} must be a number, or two for percentiles.")
        if self.percentiles is not None:
            if self.white is not None or self.black:
                raise ValueError("percentiles find black and white in each image: leave out white and black.")
            if len(self.percentiles) != 2 or not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
                raise ValueError(f"percentiles={self.percentiles} must be two of 0 to 100, the lower first: (1, 99).")
        if self.white is None and self.black:
            raise ValueError(f"black={self.black:g} needs white=..., the value that becomes white.")
        if self.white is not None and not (math.isfinite(self.white - self.black) and self.white > self.black):
            raise ValueError(f"white={self.white:g} must be a number above black, which is {self.black:g}.")

    def scale(self, pixels: Pixels) -> Toned:
        """Scale stored values ``(H, W, C)`` of any real type to 0..255; what lies outside is clipped.

        Raises:
            UnreadableImageError: the values are no real numbers, or nobody can tell which of them is white.
        """
        if pixels.dtype.kind not in "buif":
            raise UnreadableImageError(f"{pixels.dtype} pixels; real numbers are read")
        if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
            raise UnreadableImageError(f"{pixels.dtype} pixels with NaN or infinity: fill them first")
        if pixels.dtype.kind == "b":
            pixels = pixels * np.uint8(255)
        black, white = self._limits(pixels)
        if pixels.dtype == np.uint8 and (black, white) == LIMITS["uint8"]:
            return Toned(pixels, black, white)
        if white <= black:
            return Toned(np.zeros(pixels.shape, np.float32), black, white)
        # Larger types hold values that fp32 would round.
        exact = np.float32 if pixels.dtype.itemsize <= 2 or pixels.dtype == np.float32 else np.float64
        values: NDArray[np.floating] = pixels.astype(exact)
        scaled = (values - black) * (255 / (white - black))
        return Toned(scaled.clip(0, 255).astype(np.float32, copy=False), black, white)

    def _limits(self, pixels: Pixels) -> tuple[float, float]:
        """Return the values that become black and white."""
        is_float = pixels.dtype.kind == "f"
        if self.percentiles is not None:
            low, high = np.percentile(pixels, self.percentiles)
            return float(low), float(high)
        if self.white is not None and (is_float or np.iinfo(pixels.dtype).max >= self.white):
            return self.black, self.white
        limits = LIMITS_OF_FLOATS if is_float else LIMITS.get(pixels.dtype.name)
        low, high = pixels.min(), pixels.max()
        if limits is None or low < limits[0] or high > limits[1]:
            problem = "whose white is not known" if limits is None else f"which are outside 0..{limits[1]:g}"
            raise UnreadableImageError(
                f"{pixels.dtype} pixels of {low:g} to {high:g}, {problem}: give --white N (white=N), the value of "
                "white, or --percentiles 1,99"
            )
        return limits
