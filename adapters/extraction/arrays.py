"""Images that are arrays: in memory, in ``.npy`` files, and as tifffile reads them from TIFF files."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adapters.extraction.stored import UPRIGHT, Pixels, Stored, UnreadableImageError, Values

#: First bytes of a TIFF file: of either byte order, and BigTIFF.
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

#: TIFF's photometric interpretations whose values are bands as they stand: grey from white, grey from black, RGB.
WHITE_IS_ZERO, PLAIN_BANDS = 0, (0, 1, 2)


def bands_last(array: Pixels, channels: int) -> Pixels:
    """Return an array of ``(H, W)``, ``(H, W, C)`` or ``(C, H, W)`` as ``(H, W, C)``.

    The axis that is as long as the model has channels is the bands', or else one of length 1.

    Raises:
        UnreadableImageError: it has another number of axes, or both its first and its last may be the bands.
    """
    if array.ndim == 2:
        return array[:, :, None]
    if array.ndim != 3:
        raise UnreadableImageError(f"an array of {array.shape}; an image is H x W, H x W x C or C x H x W")
    for length in (channels, 1):
        last, first = array.shape[2] == length, array.shape[0] == length
        if last and first:
            raise UnreadableImageError(
                f"an array of {array.shape}, whose first axis may be the bands ({length}), or its last: store it as "
                "an image that is larger, or as a TIFF"
            )
        if last or first:
            return array if last else np.moveaxis(array, 0, 2)
    # Neither fits, and the image will be refused; its shortest axis is most likely the bands'.
    return array if array.shape[2] <= array.shape[0] else np.moveaxis(array, 0, 2)


def from_memory(image: Any) -> Pixels:
    """Return the pixels of an array ``(H, W)`` or ``(H, W, C)``, or of a tensor ``(H, W)`` or ``(C, H, W)``.

    Returns:
        ``(H, W, C)``, a view where the image allows it.

    Raises:
        UnreadableImageError: it has another number of axes, or no values.
    """
    order = "H x W x C"
    if isinstance(image, torch.Tensor):
        if image.is_meta or image.layout is not torch.strided:
            raise UnreadableImageError("a tensor that is sparse or has no values")
        image, order = image.detach().cpu(), "C x H x W"
        image = (image.float() if image.dtype == torch.bfloat16 else image).numpy()
    if image.ndim == 2:
        return image[:, :, None]
    if image.ndim != 3:
        raise UnreadableImageError(f"shape {image.shape}; an image is H x W or {order}")
    return np.moveaxis(image, 0, 2) if order == "C x H x W" else image


def stored_array(pixels: Pixels) -> Stored:
    """Return the image of an array ``(H, W, C)``."""
    return Stored((pixels.shape[0], pixels.shape[1]), pixels.shape[2], lambda: Values(np.asarray(pixels)))


@contextmanager
def opened_npy(path: Path, channels: int) -> Iterator[Stored]:
    """Open a ``.npy`` file of ``(H, W)``, ``(H, W, C)`` or ``(C, H, W)``; nothing in it is run.

    Raises:
        UnreadableImageError: it holds no such array.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UnreadableImageError("not a whole .npy file of numbers") from error
    if not isinstance(array, np.ndarray):
        raise UnreadableImageError("an archive of arrays; a .npy file of one is read")
    yield stored_array(bands_last(array, channels))


def is_tiff(path: Path) -> bool:
    """Return True for a file that begins as TIFF files do."""
    with path.open("rb") as file:
        return file.read(4) in TIFF_STARTS


@contextmanager
def opened_tiff(path: Path, channels: int) -> Iterator[Stored]:
    """Open a TIFF file whose bands are samples of its first page, or pages of their own, by tifffile.

    Raises:
        UnreadableImageError: tifffile is not installed, or the file holds no plain bands.
    """
    try:
        import tifffile
    except ModuleNotFoundError as error:
        raise UnreadableImageError(
            "a TIFF that Pillow cannot read; tifffile may: pip install 'dense-adapters[extract]'"
        ) from error
    with tifffile.TiffFile(path) as file:
        page: Any = file.pages[0]
        if page.photometric not in PLAIN_BANDS:
            raise UnreadableImageError(f"a TIFF whose {page.photometric.name} pixels Pillow cannot read")
        samples = page.axes.find("S")
        # Bands that are pages of their own.
        source: Any = file.series[0] if samples < 0 and len(file.series[0].shape) == 3 else page
        orientation = page.tags.valueof("Orientation", 1)

        def arrange(array: Pixels) -> Pixels:
            pixels = bands_last(array, channels) if samples < 0 else np.moveaxis(array, samples, -1)
            return UPRIGHT[orientation](pixels) if orientation in UPRIGHT else pixels

        height, width, bands = arrange(np.broadcast_to(np.uint8(0), source.shape)).shape
        inverted = page.photometric == WHITE_IS_ZERO
        yield Stored((height, width), bands, lambda: Values(arrange(source.asarray()), inverted=inverted))
