"""Images that Pillow reads, with all bits that their files hold."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from adapters.extraction.stored import UPRIGHT, Pixels, Stored, Values, check_size, fits

#: Raw modes of 16-bit colour. Pillow keeps the upper byte of each value; read as if its bytes were in the other order,
#: the same file gives the lower ones.
OTHER_ORDER = {
    f"{colours};16{order}": f"{colours};16{other}"
    for colours in ("RGB", "RGBA")
    for order, other in (("B", "L"), ("L", "B"), ("N", "B"))
}

#: Formats whose colours of 16 bits have such raw modes.
DEEP_FORMATS = ("PNG", "TIFF")

#: Tags of TIFF, and values of theirs.
BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLES_PER_PIXEL, PLANAR_CONFIGURATION = 258, 262, 277, 284
WHITE_IS_ZERO, IN_PLANES = 0, 2


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
def opened_by_pillow(path: Path, channels: int, max_decoded: float) -> Iterator[Stored]:
    """Open an image file, of several frames the first.

    Raises:
        Exception: whatever Pillow's plugins run into, ``UnidentifiedImageError`` where it is no image.
    """
    with _PILLOW_LIMIT.suspended(), Image.open(path) as image:
        yield stored_image(image, channels, max_decoded, path)


def shows_all_bands(path: Path, channels: int, max_decoded: float) -> bool:
    """Return True if Pillow reads a TIFF file with all bands that it has for a model of ``channels``.

    It leaves out bands that follow RGB, takes bands that are pages of their own for frames, and confuses planes of
    more than 8 bits.
    """
    try:
        with _PILLOW_LIMIT.suspended(), Image.open(path) as image:
            tags, shown = _tags(image), len(image.getbands())
            deep = max(tags.get(BITS_PER_SAMPLE, (1,))) > 8
            if tags.get(SAMPLES_PER_PIXEL, shown) > shown or (deep and tags.get(PLANAR_CONFIGURATION) == IN_PLANES):
                return False
            is_one_frame = getattr(image, "n_frames", 1) == 1
            return is_one_frame or fits(stored_image(image, channels, max_decoded).bands, channels)
    except UnidentifiedImageError:
        return False


def stored_image(image: Image.Image, channels: int, max_decoded: float, path: Path | None = None) -> Stored:
    """Return an image of Pillow's as one of ``channels`` bands, if it can be understood as that.

    Alpha counts as a band where the model takes one band more than there are colours.

    Args:
        image: the image.
        channels: number of bands that the model takes.
        max_decoded: megapixels of an image at most.
        path: the file that it was opened from; None of an image in memory, which is as it is.

    Raises:
        UnreadableImageError: it has more megapixels than ``max_decoded``.
    """
    width, height = image.size
    check_size(height, width, max_decoded)  # before its orientation, for which Pillow decodes a PNG
    colours = 1 if _is_grey(image) else 3
    has_alpha = _has_alpha(image)
    with_alpha = has_alpha and channels == colours + 1
    orientation = _orientation(image)
    size = (width, height) if orientation >= 5 else (height, width)

    def read() -> Values:
        image.load()
        may_be_deep = image.format in DEEP_FORMATS and "transparency" not in image.info
        lower = _lower_bytes(path) if path is not None and may_be_deep else None
        pixels = _pixels(image, has_alpha) if lower is None else np.asarray(image).astype(np.uint16) << 8 | lower
        alpha = None
        if has_alpha and not with_alpha:
            whole = np.iinfo(pixels.dtype).max
            pixels, alpha = pixels[:, :, :-1], pixels[:, :, -1:].astype(np.float32) / whole
        turn = UPRIGHT.get(orientation, np.asarray)
        inverted = pixels.dtype != np.uint8 and _tags(image).get(PHOTOMETRIC) == WHITE_IS_ZERO
        return Values(turn(pixels), None if alpha is None else turn(alpha), inverted)

    return Stored(size, colours + with_alpha, read)


def _tags(image: Image.Image) -> Mapping[int, Any]:
    """Return the tags of a TIFF, none of other images."""
    return getattr(image, "tag_v2", {})


def _is_grey(image: Image.Image) -> bool:
    return image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I")


def _has_alpha(image: Image.Image) -> bool:
    deep = image.mode == "F" or image.mode.startswith("I")
    return not deep and image.has_transparency_data


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8. Pillow turns TIFF upright by itself, header and pixels."""
    if image.format == "TIFF":
        return 1
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    return orientation if orientation in UPRIGHT else 1


def _pixels(image: Image.Image, has_alpha: bool) -> Pixels:
    """Return ``(H, W, C)`` of a loaded image: grey of its own type, or bytes of grey or RGB, and its alpha."""
    if image.mode == "F" or image.mode.startswith("I"):
        grey = np.asarray(image)
        if grey.dtype.kind != "f" and grey.min() >= 0 and grey.max() <= 65535:  # Pillow's I holds 16 bits, too
            grey = grey.astype(np.uint16)
        return grey[:, :, None]
    mode = "L" if _is_grey(image) else "RGB"
    if has_alpha:
        rgba = np.array((image.convert("LA") if image.mode == "La" else image).convert("RGBA"))
        return rgba if mode == "RGB" else rgba[:, :, [0, 3]]
    pixels = np.array(image.convert(mode))
    return pixels if mode == "RGB" else pixels[:, :, None]


def _lower_bytes(path: Path) -> Pixels | None:
    """Read the lower bytes of colours of 16 bits, ``(H, W, C)``; None for other images."""
    with Image.open(path) as image:
        if not isinstance(image, ImageFile.ImageFile) or len(image.tile) != 1:
            return None
        arguments = image.tile[0].args
        raw, *others = (arguments,) if isinstance(arguments, str) else arguments or (None,)
        if raw not in OTHER_ORDER:
            return None
        other = (OTHER_ORDER[raw], *others)
        image.tile = [image.tile[0]._replace(args=other if others else other[0])]
        image.load()
        return np.asarray(image)
