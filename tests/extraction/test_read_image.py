"""Images of every kind are fed as a person sees them, or refused with the reason."""

import hashlib
import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from small_images import picture, tiny_extractor
from timm.data import create_transform, resolve_data_config

from adapters.extraction.inputs import find_images
from adapters.extraction.manifest import read_manifest
from adapters.extraction.options import ExtractionOptions
from adapters.extraction.planning import make_plan, read_headers
from adapters.extraction.preprocessing import Preprocessing
from adapters.extraction.read_image import UnreadableImageError, read_rgb, read_size
from adapters.extraction.records import feature_file_name
from adapters.extraction.run import run_extraction

RGB = np.asarray(picture(40, 60, np.random.default_rng(0)))
GREY = np.asarray(Image.fromarray(RGB).convert("L"))


def read(path: Path) -> NDArray[np.int64]:
    image = read_rgb(path, 200)
    assert image.mode == "RGB"
    assert read_size(path, 200) == (image.height, image.width)
    return np.asarray(image).astype(np.int64)


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


@pytest.mark.parametrize("mode", ["1", "L", "LAB", "YCbCr", "HSV"])
def test_other_modes(tmp_path: Path, mode: str) -> None:
    if mode in ("LAB", "YCbCr"):
        path, image = tmp_path / "image.tif", Image.fromarray(RGB).convert("YCbCr" if mode == "YCbCr" else "L")
    else:
        path, image = tmp_path / "image.png", Image.fromarray(RGB).convert("L" if mode == "HSV" else mode)
    image.save(path)
    assert near(read(path), np.asarray(image.convert("RGB")), 2)


def refused(path: Path) -> str:
    with pytest.raises(UnreadableImageError) as caught:
        read_rgb(path, 200)
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
    assert "IsADirectoryError" in refused(tmp_path)


def test_a_decompression_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png(RGB, bits=8, height=100_000, width=100_000))
    assert "10000.0 megapixels (100000 x 100000), more than are decoded: max_decoded is 200" in refused(path)
    with pytest.raises(UnreadableImageError, match=r"10000\.0 megapixels"):
        read_size(path, 200)


def test_100_megapixels_get_a_line_or_are_scaled(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.new("L", (10_000, 10_000), 77).save(tmp_path / "in/large.png", compress_level=1)
    Image.new("RGB", (1, 1), "red").save(tmp_path / "in/one.png")
    paths = find_images([tmp_path / "in"])
    summary = run_extraction(paths, tiny_extractor(), tmp_path / "own", 0, progress=False)
    ((name, reason),) = summary.failures
    assert name.endswith("large.png")
    assert "100.0 megapixels (10000 x 10000), more than are fed: max_pixels is 25" in reason
    rows = read_manifest(tmp_path / "own")
    assert (rows[0]["original_height"], rows[0]["fed_height"]) == (10_000, None)
    assert (rows[1]["status"], rows[1]["fed_height"], rows[1]["fed_width"]) == ("ok", 1, 1)
    scaled = run_extraction(paths, tiny_extractor(size=(64,)), tmp_path / "scaled", 0, progress=False)
    assert scaled.done == 2
    assert [row["fed_width"] for row in read_manifest(tmp_path / "scaled")] == [64, 64]


def test_batches_share_a_padded_size_and_depend_on_nothing_else(tmp_path: Path) -> None:
    sizes = [(30, 40), (64, 64), (32, 64), (33, 40), (20, 33), (2000, 3000), (40, 30), (2016, 3008), "unreadable"]
    paths = [tmp_path / f"{index}.png" for index in range(len(sizes))]
    preprocessing = tiny_extractor().preprocessing
    plan = make_plan(paths, sizes, preprocessing, 32, ExtractionOptions(batch_size=2))
    assert [([entry.index for entry in batch.entries], batch.size) for batch in plan.batches] == [
        ([0, 2], (32, 64)),
        ([1, 3], (64, 64)),
        ([5], (2016, 3008)),
        ([7], (2016, 3008)),
        ([4], (32, 64)),
        ([6], (64, 32)),
    ]
    assert plan.refused == {8: (None, "unreadable")}


def test_headers_are_read_by_processes_alike(tmp_path: Path) -> None:
    picture(8, 9, np.random.default_rng(0)).save(tmp_path / "a.png")
    paths = [tmp_path / "a.png", tmp_path / "gone.png"] * 500
    assert read_headers(paths, 200, 2) == read_headers(paths, 200, 0) == [(8, 9), "no such file"] * 500


@pytest.mark.parametrize(
    "model_name", ["twins_svt_small", "vit_betwixt_patch16_rope_reg4_gap_256", "convnext_atto.d2_in1k"]
)
def test_native_preprocessing_is_that_of_the_model_card(model_name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(model_name)
    image = Image.fromarray(RGB).resize((300, 280))
    config = resolve_data_config({}, model=model)
    expected = create_transform(**config, is_training=False)(image)
    preprocessing = Preprocessing.of_model(model.pretrained_cfg, "native")
    torch.testing.assert_close(feed(preprocessing, image), expected)
    assert preprocessing.fed_size((280, 300)) == tuple(expected.shape[1:])
    own = feed(Preprocessing.of_model(model.pretrained_cfg, None), image)
    config["input_size"], config["crop_pct"] = (3, 280, 300), 1.0
    torch.testing.assert_close(own, create_transform(**config, is_training=False)(image))


def feed(preprocessing: Preprocessing, image: Image.Image) -> torch.Tensor:
    """What the model gets of an image alone."""
    pixels = preprocessing.scale(image)
    assert pixels.dtype == torch.uint8
    return preprocessing.normalise(pixels[None], [tuple(pixels.shape[1:])])[0]


def test_padding_is_zero_after_normalisation() -> None:
    preprocessing = tiny_extractor().preprocessing
    batch = preprocessing.normalise(torch.full((2, 3, 8, 9), 200, dtype=torch.uint8), [(8, 9), (5, 4)])
    assert (batch[0] != 0).all()
    assert (batch[1, :, :5, :4] == batch[0, :, :5, :4]).all()
    assert (batch[1, :, 5:] == 0).all()
    assert (batch[1, :, :, 4:] == 0).all()


def test_sizes() -> None:
    image = Image.fromarray(RGB)
    config = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.5, 1.0), "interpolation": "bilinear", "input_size": (3, 32, 32)}
    shorter = Preprocessing.of_model(config, (20,))
    assert feed(shorter, image).shape == (3, *shorter.fed_size((40, 60))) == (3, 20, 30)
    assert shorter.fed_size((60, 40)) == (30, 20)
    exactly = Preprocessing.of_model(config, (10, 70))
    fed = feed(exactly, image)
    assert fed.shape == (3, *exactly.fed_size((40, 60))) == (3, 10, 70)
    pixels = torch.from_numpy(np.asarray(image.resize((70, 10), Image.Resampling.BILINEAR)).transpose(2, 0, 1) / 255)
    mean, std = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))
    torch.testing.assert_close(fed, (pixels.float() - mean) / std)
    blue_first = Preprocessing.of_model(config, (10, 70), bgr=True)
    torch.testing.assert_close(feed(blue_first, image), (pixels.float().flip(0) - mean) / std)


def test_inputs(tmp_path: Path) -> None:
    for name in (
        "b.jpg",
        "a.PNG",
        "deep/c.jpeg",
        "out/sheet.png",
        "notes.md",
        "images/train/x.jpg",
        "images/val/x.jpg",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    def names(*sources: str, **options: Any) -> list[str]:
        found = find_images([tmp_path / source for source in sources], **options)
        return [str(path.relative_to(tmp_path)) for path in found]

    assert names("deep", "b.jpg", "deep/c.jpeg") == ["deep/c.jpeg", "b.jpg"]
    assert names("") == ["a.PNG", "b.jpg", "deep/c.jpeg", "images/train/x.jpg", "images/val/x.jpg", "out/sheet.png"]
    assert "out/sheet.png" not in names("", exclude=tmp_path / "out")
    assert names("*.jpg", "**/c.*") == ["b.jpg", "deep/c.jpeg"]
    (tmp_path / "list.txt").write_text("b.jpg\n\ndeep/c.jpeg\nmissing.jpg\n")
    assert names("list.txt") == ["b.jpg", "deep/c.jpeg", "missing.jpg"]
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfb.jpg\r\ndeep/c.jpeg\r\n")
    assert names("list.txt") == ["b.jpg", "deep/c.jpeg"]
    coco = tmp_path / "annotations" / "instances_val.json"
    coco.parent.mkdir()
    coco.write_text(json.dumps({"images": [{"file_name": "x.jpg"}]}))
    assert names("annotations/instances_val.json") == ["images/val/x.jpg"]
    assert names("annotations/instances_val.json", image_root=tmp_path / "images/train") == ["images/train/x.jpg"]
    for source, message in (
        ("none", "there is no '.*none'"),
        ("none/*.jpg", "holds no images"),
        ("annotations/bad.json", "is no COCO json"),
        ("annotations/lost.json", "names 'y.jpg', which is not in .*--image-root"),
    ):
        (tmp_path / "annotations/bad.json").write_text("[]")
        (tmp_path / "annotations/lost.json").write_text(json.dumps({"images": [{"file_name": "y.jpg"}]}))
        with pytest.raises(ValueError, match=message):
            names(source)


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    """Twice where two lead to one, and never in circles."""
    (tmp_path / "far/below").mkdir(parents=True)
    (tmp_path / "far/below/x.jpg").touch()
    (tmp_path / "in").mkdir()
    for link, target in (("in/one", "far"), ("in/two", "far"), ("far/below/back", "far"), ("in/gone", "nowhere")):
        (tmp_path / link).symlink_to(tmp_path / target)
    found = [str(path.relative_to(tmp_path)) for path in find_images([tmp_path / "in"])]
    assert found == ["in/one/below/x.jpg", "in/two/below/x.jpg"]


def test_file_names_are_unique_and_stable() -> None:
    names = [feature_file_name(Path(path)) for path in ("/a/x.jpg", "/b/x.jpg", "/a/x.png", "/a/ü b.jpg", "/a/.jpg")]
    assert len(set(names)) == len(names)
    assert names[0] == f"x-{hashlib.sha256(b'/a/x.jpg').hexdigest()[:16]}.safetensors"
    assert names[3].startswith("__b-")
    assert all(name.isascii() for name in names)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"outputs": ("maps",)}, "outputs='maps' must be one or more of pyramid, embedding, top5"),
        ({"outputs": ()}, "must be one or more"),
        ({"size": (1, 2, 3)}, r"size=\(1, 2, 3\) must be one side"),
        ({"size": "large"}, "size='large' must be one side"),
        ({"batch_size": 0}, "batch_size=0 must be more than 0"),
        ({"max_pixels": 0}, "max_pixels=0 must be more than 0"),
    ],
    ids=str,
)
def test_wrong_options(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExtractionOptions(**fields)
