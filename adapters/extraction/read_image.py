"""Images of all kinds, read upright as tones of as many bands as a model takes; or the reason why they cannot be."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from adapters.extraction.arrays import is_tiff, opened_npy, opened_tiff, stored_array
from adapters.extraction.pillow_files import opened_by_pillow, shows_all_bands, stored_image
from adapters.extraction.stored import Pixels, Size, Stored, UnreadableImageError, check_size, fits
from adapters.extraction.tones import Tones

Source = Path | Image.Image | Pixels
"""An image: a file, or in memory an image of Pillow's or an array ``(H, W, C)``."""


@dataclass(frozen=True)
class Picture:
    """An image as it is fed, before scaling and normalisation.

    Attributes:
        pixels: ``(H, W, C)`` of 0..255, bytes, or fp32 where the image has more than 8 bits.
        note: a note on what may surprise in it, or None.
    """

    pixels: Pixels
    note: str | None = None

    @property
    def size(self) -> Size:
        """Height and width."""
        return self.pixels.shape[0], self.pixels.shape[1]


@dataclass(frozen=True)
class ImageReader:
    """A reader of images for a model.

    Attributes:
        channels: number of bands that the model takes.
        max_decoded: megapixels at which an image is refused by its header.
        tones: the scale of values.
    """

    channels: int
    max_decoded: float
    tones: Tones

    def read_size(self, source: Source) -> Size:
        """Read height and width of an image as a person sees it, without decoding it.

        Raises:
            UnreadableImageError: it is no image, or holds more megapixels than ``max_decoded``.
        """
        with self._opened(source) as stored:
            return stored.size

    def read(self, source: Source) -> Picture:
        """Read an image, turned upright; of several frames the first.

        Transparent pixels are laid over white, unless alpha is one of the bands that the model takes. Grey serves as
        RGB. CMYK goes through Pillow's conversion.

        Raises:
            UnreadableImageError: it is no image, is damaged, holds more megapixels than ``max_decoded`` or another
                number of bands, or its values cannot be told to be tones.
        """
        with self._opened(source) as stored:
            if not fits(stored.bands, self.channels):
                raise UnreadableImageError(
                    f"{stored.bands} band{'s' * (stored.bands != 1)}, and the model takes {self.channels}: convert the "
                    f"image, or build the model with --in-channels {stored.bands} (in_channels={stored.bands})"
                )
            values = stored.read()
            toned = self.tones.scale(values.bands)
            pixels = 255 - toned.pixels if values.inverted else toned.pixels
            if values.alpha is not None:
                pixels = _over_white(pixels, values.alpha)
            if pixels.shape[2] != self.channels:
                pixels = np.repeat(pixels, self.channels, axis=2)
        return Picture(pixels, replace(toned, pixels=pixels).note())

    @contextmanager
    def _opened(self, source: Source) -> Iterator[Stored]:
        try:
            with self._open(source) as stored:
                check_size(*stored.size, self.max_decoded)
                yield stored
        except UnreadableImageError:
            raise
        except UnidentifiedImageError as error:
            raise UnreadableImageError("not an image that Pillow can read") from error
        except Exception as error:  # plugins raise whatever their parsing runs into
            reason = (str(error).splitlines() or [""])[0]
            raise UnreadableImageError(f"{type(error).__name__}: {reason}") from error

    @contextmanager
    def _open(self, source: Source) -> Iterator[Stored]:
        """Open an image by what it is: TIFF files by tifffile where Pillow cannot show all their bands."""
        if isinstance(source, Image.Image):
            yield stored_image(source, self.channels, self.max_decoded)
        elif isinstance(source, np.ndarray):
            yield stored_array(source)
        else:
            _check_file(source)
            if source.suffix.lower() == ".npy":
                opened = opened_npy(source, self.channels)
            elif is_tiff(source) and not shows_all_bands(source, self.channels, self.max_decoded):
                opened = opened_tiff(source, self.channels)
            else:
                opened = opened_by_pillow(source, self.channels, self.max_decoded)
            with opened as stored:
                yield stored


def _check_file(path: Path) -> None:
    """Check that a path leads to a file that can be opened.

    Raises:
        UnreadableImageError: it does not.
    """
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):  # a pipe would wait for its writer
            raise UnreadableImageError("not a regular file")
        readable = os.access(path, os.R_OK)
    except FileNotFoundError as error:
        target = f": a link to {os.readlink(path)}, which is not there" if path.is_symlink() else ""
        raise UnreadableImageError(f"no such file{target}") from error
    except OSError as error:
        raise UnreadableImageError(f"cannot be opened: {error.strerror}") from error
    if not readable:
        raise UnreadableImageError("cannot be opened: no permission to read it")
    if stat.S_ISDIR(mode):
        raise UnreadableImageError("a folder, not an image")


def _over_white(pixels: Pixels, alpha: Pixels) -> Pixels:
    """Lay pixels over white, by their opacity."""
    laid = pixels * alpha + 255 * (1 - alpha)
    return np.round(laid).astype(np.uint8) if pixels.dtype == np.uint8 else laid
