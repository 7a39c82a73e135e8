"""Images of every kind are read as a person sees them, or refused with the reason."""

import io
import os
import struct
import sys
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
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


def refused(path: Path, channels: int = 3) -> str:
    with pytest.raises(UnreadableImageError) as caught:
        reader(channels).read(path)
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


@pytest.mark.parametrize("suffix", ["png", "tif", "npy", "pgm"])
def test_12_bits_in_16_are_noted_and_scaled(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image.{suffix}"
    pixels = GREY.astype(np.uint16) * 16
    if suffix == "npy":
        np.save(path, pixels)
    else:
        Image.fromarray(pixels).save(path)
    assert read(path).max() < 32
    assert (reader().read(path).note or "").startswith(f"dark: the maximum is {pixels.max()} of 65535")
    bright = reader(white=4095.0).read(path)
    np.testing.assert_allclose(bright.pixels[:, :, 1], pixels * (255 / 4095), rtol=1e-5)
    assert bright.note is None


@pytest.mark.parametrize("kind", ["png", "tif-raw", "tif-deflate", "tif-lzw", "tif-planes", "tif-big-endian", "npy"])
def test_16_bit_colour_keeps_all_its_bits(tmp_path: Path, kind: str) -> None:
    """Pillow shows the upper bytes alone."""
    deep = np.random.default_rng(1).integers(0, 4096, (41, 30, 3), dtype=np.uint16)
    path = tmp_path / f"image.{kind.partition('-')[0]}"
    if kind == "png":
        path.write_bytes(png(deep, bits=16))
    elif kind == "npy":
        np.save(path, deep)
    elif kind == "tif-planes":
        tifffile.imwrite(path, deep.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    else:
        order = ">" if kind.endswith("endian") else "<"
        tifffile.imwrite(path, deep, photometric="rgb", byteorder=order)
        if kind == "tif-lzw":
            compress(path, "tiff_lzw")
        if kind == "tif-deflate":
            tifffile.imwrite(path, deep, photometric="rgb", compression="deflate", predictor=True)
    np.testing.assert_allclose(reader(white=4095.0).read(path).pixels, deep * (255 / 4095), rtol=1e-5)
    assert "dark: the maximum is 40" in (reader().read(path).note or "")


def compress(path: Path, compression: str) -> None:
    """Compress a 16-bit TIFF, which neither Pillow nor tifffile alone can do for this compression."""
    deep = tifffile.imread(path)
    cv2.imwrite(str(path), deep[:, :, ::-1], [cv2.IMWRITE_TIFF_COMPRESSION, 5])
    assert tifffile.TiffFile(path).pages[0].compression.name == "LZW", compression


def test_16_bit_colour_with_alpha_lies_over_white(tmp_path: Path) -> None:
    deep = np.zeros((4, 5, 4), np.uint16)
    deep[..., 0], deep[..., 3] = 4095, 16384
    tifffile.imwrite(tmp_path / "image.tif", deep, photometric="rgb", extrasamples=["unassalpha"])
    found = reader(white=4095.0).read(tmp_path / "image.tif").pixels[0, 0]
    np.testing.assert_allclose(found, [255, *[255 * (1 - 16384 / 65535)] * 2], rtol=1e-5)
    assert np.array_equal(read(tmp_path / "image.tif", 4)[0, 0], np.round(deep[0, 0] / 257))


BANDS = np.random.default_rng(2).integers(0, 65536, (20, 31, 6), dtype=np.uint16)


@pytest.mark.parametrize("kind", ["contiguous", "planes", "pages", "rows", "rgb and more", "npy", "npy first"])
def test_bands_of_all_layouts(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "image.tif"
    if kind.startswith("npy"):
        path = tmp_path / "image.npy"
        np.save(path, BANDS if kind == "npy" else BANDS.transpose(2, 0, 1))
    elif kind == "rows":
        tifffile.imwrite(path, BANDS)  # what tifffile does where it is told nothing: a page for each row
    elif kind == "contiguous":
        tifffile.imwrite(path, BANDS, photometric="minisblack", planarconfig="contig")
    elif kind == "planes":
        tifffile.imwrite(path, BANDS.transpose(2, 0, 1), photometric="minisblack", planarconfig="separate")
    elif kind == "pages":
        tifffile.imwrite(path, BANDS.transpose(2, 0, 1), photometric="minisblack")
    else:
        tifffile.imwrite(path, BANDS, photometric="rgb", extrasamples=["unspecified"] * 3)
    picture = reader(6).read(path)
    np.testing.assert_allclose(picture.pixels, BANDS / 257, rtol=1e-5)
    assert reader(6).read_size(path) == (20, 31)


def test_other_numbers_of_bands_are_refused(tmp_path: Path) -> None:
    """None is left out, though Pillow would leave out those that follow RGB."""
    tifffile.imwrite(tmp_path / "six.tif", BANDS.astype(np.uint8), photometric="rgb", extrasamples=["unspecified"] * 3)
    assert refused(tmp_path / "six.tif").startswith("6 bands, and the model takes 3: convert the image, or build the")
    assert "--in-channels 6 (in_channels=6)" in refused(tmp_path / "six.tif")
    Image.fromarray(RGB).save(tmp_path / "rgb.png")
    assert refused(tmp_path / "rgb.png", 6).startswith("3 bands, and the model takes 6")
    assert refused(tmp_path / "rgb.png", 1).startswith("3 bands, and the model takes 1")
    Image.fromarray(GREY).save(tmp_path / "grey.png")
    assert refused(tmp_path / "grey.png", 6).startswith("1 band, and")
    assert np.array_equal(read(tmp_path / "grey.png", 1)[:, :, 0], GREY)
    np.save(tmp_path / "four.npy", np.zeros((5, 6, 4), np.uint8))
    assert refused(tmp_path / "four.npy").startswith("4 bands")
    Image.fromarray(RGB).convert("CMYK").save(tmp_path / "print.tif")
    assert refused(tmp_path / "print.tif", 4).startswith("3 bands")


def test_alpha_is_a_band_where_the_model_takes_one_more(tmp_path: Path) -> None:
    rgba = np.random.default_rng(3).integers(0, 256, (6, 7, 4), dtype=np.uint8)
    Image.fromarray(rgba).save(tmp_path / "image.png")
    assert np.array_equal(read(tmp_path / "image.png", 4), rgba)
    assert read(tmp_path / "image.png", 3).shape == (6, 7, 3)
    Image.fromarray(rgba).convert("LA").save(tmp_path / "grey.png")
    assert read(tmp_path / "grey.png", 1).shape == (6, 7, 1)
    assert np.array_equal(read(tmp_path / "grey.png", 2)[:, :, 1], rgba[:, :, 3])


def test_black_ink_on_nothing_is_not_dark(tmp_path: Path) -> None:
    Image.fromarray(np.full((3, 3, 4), (0, 0, 0, 9), np.uint8)).save(tmp_path / "ink.png")
    assert reader().read(tmp_path / "ink.png").note is None


def test_white_that_is_zero(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "image.tif", GREY.astype(np.uint16) * 16, photometric="miniswhite")
    found = reader(white=4095.0).read(tmp_path / "image.tif").pixels[:, :, 0]
    np.testing.assert_allclose(found, 255 - GREY * (16 * 255 / 4095), rtol=1e-4, atol=1e-3)


def test_the_first_of_several_frames(tmp_path: Path) -> None:
    first, second = Image.fromarray(RGB), Image.fromarray(RGB[::-1])
    first.save(tmp_path / "image.tif", save_all=True, append_images=[second])
    assert np.array_equal(read(tmp_path / "image.tif"), RGB)
    tifffile.imwrite(tmp_path / "stack.tif", np.stack([GREY, GREY[::-1]]), photometric="minisblack")
    assert np.array_equal(read(tmp_path / "stack.tif", 1)[:, :, 0], GREY)
    first.quantize(32).save(tmp_path / "image.gif", save_all=True, append_images=[second.quantize(32)])
    assert np.array_equal(read(tmp_path / "image.gif"), np.asarray(first.quantize(32).convert("RGB")))


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((2, 5, 6, 3), np.uint8), r"an array of (2, 5, 6, 3); an image is H x W, H x W x C or C x H x W"),
        (np.zeros((3, 9, 3), np.uint8), "whose first axis may be the bands (3), or its last"),
        (np.zeros((0, 9, 3), np.uint8), "no pixels (0 x 9)"),
        (np.array([{}]), "not a whole .npy file of numbers"),
        (np.zeros((5, 5), "datetime64[s]"), "real numbers are read"),
        (np.array([["a"]]), "real numbers are read"),
    ],
    ids=str,
)
def test_arrays_that_are_no_images(tmp_path: Path, array: NDArray[Any], reason: str) -> None:
    np.save(tmp_path / "image.npy", array, allow_pickle=True)
    assert reason in refused(tmp_path / "image.npy")
    (tmp_path / "cut.npy").write_bytes((tmp_path / "image.npy").read_bytes()[:-1])
    assert refused(tmp_path / "cut.npy")


def test_paths_that_lead_to_no_file(tmp_path: Path) -> None:
    """Each with its reason, and none is waited for."""
    (tmp_path / "gone.png").symlink_to("nowhere")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    assert refused(tmp_path / "gone.png") == "no such file: a link to nowhere, which is not there"
    assert "symbolic links" in refused(tmp_path / "loop.png")
    assert refused(tmp_path / "folder.png") == "a folder, not an image"
    assert refused(tmp_path / "pipe.png") == "not a regular file"
    assert refused(tmp_path / "none.png") == "no such file"


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(RGB).save(tmp_path / "image.png")
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may read everything
    assert refused(tmp_path / "image.png") == "cannot be opened: no permission to read it"


def test_without_tifffile_bands_have_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "six.tif", BANDS, photometric="minisblack", planarconfig="contig")
    monkeypatch.setitem(sys.modules, "tifffile", None)
    assert refused(tmp_path / "six.tif", 6).endswith("pip install 'dense-adapters[extract]'")
    Image.fromarray(RGB).save(tmp_path / "rgb.tif")
    assert np.array_equal(read(tmp_path / "rgb.tif"), RGB)
