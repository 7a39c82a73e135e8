"""Image files of all kinds, read as 8-bit RGB, upright; or the reason why they cannot be read."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from adapters.extraction.options import MEGAPIXEL

Size = tuple[int, int]
"""Height and width in pixels."""

#: The transposition that turns an image upright, by the EXIF tag Orientation.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableImageError(ValueError):
    """An image that cannot be read; the message is the reason, in one line."""


def read_size(path: Path, max_decoded: float) -> Size:
    """Read height and width of an image as a person sees it, from its header alone.

    Raises:
        UnreadableImageError: it is no image, or holds more megapixels than ``max_decoded``.
    """
    with _opened(path) as image:
        return _upright_size(image, max_decoded)


def read_rgb(path: Path, max_decoded: float) -> Image.Image:
    """Read an image as 8-bit RGB, turned upright; of several frames the first.

    Transparent pixels are laid over white. Of 16-bit grey the upper 8 bits are kept, rounded. CMYK goes through
    Pillow's conversion.

    Raises:
        UnreadableImageError: it is no image, is damaged, or holds more megapixels than ``max_decoded``.
    """
    with _opened(path) as image:
        _upright_size(image, max_decoded)
        orientation = _orientation(image)
        image.load()
        rgb = _to_rgb(image)
    return rgb.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else rgb


class _PillowLimit:
    """Pillow's guard against decompression bombs, a limit of the process; suspended while any thread reads an image.

    The caller's ``max_decoded`` takes its place. The first reader removes the limit and the last one restores it, so
    that readers in several threads never restore each other's.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readers = 0
        self._limit: int | None = None

    @contextmanager
    def suspended(self) -> Iterator[None]:
        with self._lock:
            if self._readers == 0:
                self._limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self._readers += 1
        try:
            yield
        finally:
            with self._lock:
                self._readers -= 1
                if self._readers == 0:
                    Image.MAX_IMAGE_PIXELS = self._limit


_PILLOW_LIMIT = _PillowLimit()


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with _PILLOW_LIMIT.suspended(), Image.open(path) as image:
            yield image
    except UnreadableImageError:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImageError("not an image that Pillow can read") from error
    except FileNotFoundError as error:
        raise UnreadableImageError("no such file") from error
    except Exception as error:  # Pillow's plugins raise whatever their parsing runs into
        reason = (str(error).splitlines() or [""])[0]
        raise UnreadableImageError(f"{type(error).__name__}: {reason}") from error


def _upright_size(image: Image.Image, max_decoded: float) -> Size:
    width, height = image.size
    if width * height > max_decoded * MEGAPIXEL:
        raise UnreadableImageError(
            f"{width * height / MEGAPIXEL:.1f} megapixels ({height} x {width}), more than are decoded: "
            f"max_decoded is {max_decoded:g}"
        )
    return (width, height) if _orientation(image) >= 5 else (height, width)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8. Pillow turns TIFF upright by itself, header and pixels."""
    if image.format == "TIFF":
        return 1
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    return orientation if orientation in UPRIGHT else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_to_8_bits(np.asarray(image))).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _to_8_bits(pixels: np.ndarray) -> np.ndarray:
    """Round grey of 16 bits (0..65535) or of floating point (0..1) to 8 bits.

    Raises:
        UnreadableImageError: the values have another range, so that the value of white is not known.
    """
    white = 1.0 if pixels.dtype.kind == "f" else 65535.0
    if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= white):
        raise UnreadableImageError(
            f"{pixels.dtype} pixels of {pixels.min():g} to {pixels.max():g}, which are outside 0..{white:g}"
        )
    return np.round(pixels.astype(np.float64) * (255 / white)).astype(np.uint8)
