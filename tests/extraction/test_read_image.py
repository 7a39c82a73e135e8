"""Images of every kind are read as a person sees them, or refused with the reason."""

import io
import struct
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from small_images import picture

from adapters.extraction import pillow_files
from adapters.extraction.read_image import ImageReader
from adapters.extraction.stored import UnreadableImageError
from adapters.extraction.tones import Tones

RGB = np.asarray(picture(40, 60, np.random.default_rng(0)))
GREY = np.asarray(Image.fromarray(RGB).convert("L"))


def reader(channels: int = 3, **tones: Any) -> ImageReader:
    return ImageReader(channels, 200, Tones(**tones))


def read(path: Path, channels: int = 3, **tones: Any) -> NDArray[np.int64]:
    """The image, rounded to bytes."""
    picture = reader(channels, **tones).read(path)
    assert picture.pixels.dtype in (np.uint8, np.float32)
    assert picture.pixels.min() >= 0
    assert picture.pixels.max() <= 255
    assert reader(channels).read_size(path) == picture.size
    assert picture.pixels.shape == (*picture.size, channels)
    return np.round(picture.pixels).astype(np.int64)


def near(actual: NDArray[Any], expected: NDArray[Any], tolerance: float) -> bool:
    return actual.shape == expected.shape and float(np.abs(actual - expected.astype(np.int64)).mean()) <= tolerance


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_exif_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    """Stored so that turning it upright gives the picture."""
    turned = {
        1: RGB,
        2: RGB[:, ::-1],
        3: RGB[::-1, ::-1],
        4: RGB[::-1],
        5: RGB.transpose(1, 0, 2),
        6: np.rot90(RGB, 1),
        7: RGB.transpose(1, 0, 2)[::-1, ::-1],
        8: np.rot90(RGB, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(np.ascontiguousarray(turned[orientation])).save(path, exif=exif, quality=95)
    assert near(read(path), RGB, 3)


def test_cmyk(tmp_path: Path) -> None:
    """As Adobe's programs store it, inverted, which Pillow knows; and as TIFF."""
    for name in ("image.jpg", "image.tif"):
        Image.fromarray(RGB).convert("CMYK").save(tmp_path / name, quality=95)
        assert near(read(tmp_path / name), RGB, 4), name


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_16_bits_are_scaled_and_not_clipped(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(GREY.astype(np.uint16) * 257).save(path)
    assert np.array_equal(read(path), np.stack([GREY] * 3, axis=-1))


def test_16_bit_colour(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(png(RGB.astype(">u2") * 257, bits=16))
    assert near(read(path), RGB, 1)


def png(pixels: NDArray[Any], bits: int, height: int | None = None, width: int | None = None) -> bytes:
    """A colour PNG, which may claim another size than it has."""
    rows = b"".join(b"\0" + row.astype(">u2" if bits == 16 else np.uint8).tobytes() for row in pixels)
    size = struct.pack(">II", width or pixels.shape[1], height or pixels.shape[0])
    chunks = ((b"IHDR", size + bytes([bits, 2, 0, 0, 0])), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_floating_point(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    Image.fromarray(GREY.astype(np.float32) / 255).save(path)
    assert np.array_equal(read(path), np.stack([GREY] * 3, axis=-1))
    Image.fromarray(GREY.astype(np.float32)).save(path)
    with pytest.raises(UnreadableImageError, match=r"float32 pixels of .* outside 0..1"):
        read(path)


def test_palette(tmp_path: Path) -> None:
    palette = Image.fromarray(RGB).quantize(64)
    palette.save(tmp_path / "image.gif")
    assert np.array_equal(read(tmp_path / "image.gif"), np.asarray(palette.convert("RGB")))
    palette.save(tmp_path / "image.png", transparency=palette.getpixel((0, 0)))
    found, plain = read(tmp_path / "image.png"), np.asarray(palette.convert("RGB"))
    see_through = np.asarray(palette) == palette.getpixel((0, 0))
    assert (found[see_through] == 255).all()
    assert np.array_equal(found[~see_through], plain[~see_through])


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_lies_over_white(tmp_path: Path, mode: str) -> None:
    alpha = np.linspace(0, 255, 60).astype(np.uint8)[None].repeat(40, axis=0)
    image = Image.fromarray(RGB).convert(mode)
    image.putalpha(Image.fromarray(alpha))
    image.save(tmp_path / "image.png")
    base = RGB if mode == "RGBA" else np.stack([GREY] * 3, axis=-1)
    share = alpha[..., None] / 255
    assert near(read(tmp_path / "image.png"), np.round(base * share + 255 * (1 - share)), 0.6)


@pytest.mark.parametrize(("mode", "suffix"), [("1", "png"), ("L", "png"), ("LAB", "tif"), ("YCbCr", "tif")])
def test_other_modes(tmp_path: Path, mode: str, suffix: str) -> None:
    image = Image.fromarray(RGB).convert(mode)
    image.save(tmp_path / f"image.{suffix}")
    with Image.open(tmp_path / f"image.{suffix}") as saved:
        assert saved.mode == mode
    assert near(read(tmp_path / f"image.{suffix}"), np.asarray(image.convert("RGB")), 2)


def refused(path: Path) -> str:
    with pytest.raises(UnreadableImageError) as caught:
        reader().read(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_damaged_files_have_a_reason(tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 80, 3), dtype=np.uint8))
    for suffix in ("jpg", "png", "gif", "tif"):
        buffer = io.BytesIO()
        noise.save(buffer, {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper()))
        path = tmp_path / f"cut.{suffix}"
        path.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
        assert refused(path)
    (tmp_path / "empty.jpg").write_bytes(b"")
    assert refused(tmp_path / "empty.jpg") == "not an image that Pillow can read"
    assert refused(tmp_path / "none.jpg") == "no such file"
    assert refused(tmp_path) == "a folder, not an image"


def test_a_decompression_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png(RGB, bits=8, height=100_000, width=100_000))
    assert "10000.0 megapixels (100000 x 100000), more than are decoded: max_decoded is 200" in refused(path)
    with pytest.raises(UnreadableImageError, match=r"10000\.0 megapixels"):
        reader().read_size(path)


def test_threads_that_read_leave_pillows_limit_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In whatever order they end: an image beyond the limit is read while another thread ends before it."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    path = tmp_path / "image.png"
    Image.fromarray(RGB).save(path)
    opened, ended = threading.Event(), threading.Event()
    pixels = pillow_files._pixels

    def slow(image: Image.Image, has_alpha: bool) -> NDArray[Any]:
        if threading.current_thread() is not threading.main_thread():
            opened.set()
            assert ended.wait(10)
            Image.open(path).close()  # beyond the limit, which must still be suspended
        return pixels(image, has_alpha)

    monkeypatch.setattr(pillow_files, "_pixels", slow)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(reader().read, path)
        assert opened.wait(10)
        reader().read(path)
        ended.set()
        assert np.array_equal(other.result().pixels, RGB)
    assert Image.MAX_IMAGE_PIXELS == 100
