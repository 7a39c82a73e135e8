"""``adapters.extract`` gives the features of the folder."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from small_images import COUNT, TINY, extract_tiny, picture, tiny_extractor

import adapters
from adapters.extraction.manifest import read_manifest


def test_python_gives_the_same_as_the_folder(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = tiny_extractor(outputs=("pyramid", "embedding")).options
    extract_tiny(images, out, outputs=("pyramid", "embedding"))
    rows = read_manifest(out)
    found = list(adapters.extract(images, TINY, "random", options))
    assert sorted(item.index for item in found) == list(range(COUNT + 1))
    for item in found:
        row = rows[item.index]
        assert str(item.path) == row["path"]
        assert item.reason == row["reason"]
        if item.reason is None:
            tensors = load_file(out / row["file"])
            assert all(torch.equal(m, tensors[f"level{index}"]) for index, m in enumerate(item.maps))
            assert torch.equal(item.embedding, tensors["embedding"])
            assert [level.stride for level in item.levels] == row["strides"]


def test_python_takes_a_built_adapter(images: Path) -> None:
    backbone = adapters.create_adapter(**TINY, out_indices=(1, 2))
    image = next(images.glob("*.png"))
    (found,) = adapters.extract(image, backbone)
    assert [m.shape[0] for m in found.maps] == [level.channels for level in backbone.levels]
    with pytest.raises(ValueError, match="give the model's name"):
        next(adapters.extract(image, backbone, options=adapters.ExtractionOptions(outputs=("embedding",))))


@pytest.fixture(scope="module")
def backbone() -> adapters.BackboneAdapter:
    return adapters.create_adapter(**TINY).eval()


RGB = np.array(picture(40, 50, np.random.default_rng(0)))
CHANNELS_FIRST = torch.from_numpy(RGB).permute(2, 0, 1)


def fed(backbone: adapters.BackboneAdapter, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The maps of RGB of 0..1, normalised as timm does."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        return backbone(((pixels.float() - mean) / std)[None])


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(RGB),
        RGB,
        RGB[::-1][::-1],
        RGB.astype(np.uint16) * 257,
        RGB / 255,
        (RGB / 255).astype(np.float32),
        CHANNELS_FIRST,
        CHANNELS_FIRST / 255,
        (CHANNELS_FIRST / 255).double().requires_grad_(),
    ],
    ids=lambda image: f"{type(image).__name__} {getattr(image, 'dtype', '')}",
)
def test_images_in_memory(backbone: adapters.BackboneAdapter, image: Any) -> None:
    """To fp32's precision, without a way through bytes."""
    (found,) = adapters.extract(image, backbone)
    assert (found.path, found.reason, found.original, found.fed) == (None, None, (40, 50), (40, 50))
    for actual, expected in zip(found.maps, fed(backbone, CHANNELS_FIRST / 255), strict=True):
        torch.testing.assert_close(actual, expected[0], rtol=1e-4, atol=1e-4)


def test_precision_is_that_of_the_image(backbone: adapters.BackboneAdapter) -> None:
    pixels = torch.rand(3, 40, 50, generator=torch.Generator().manual_seed(0))
    (found,) = adapters.extract(pixels, backbone)
    for actual, expected in zip(found.maps, fed(backbone, pixels), strict=True):
        torch.testing.assert_close(actual, expected[0], rtol=1e-4, atol=1e-4)


def test_many_images_in_memory(backbone: adapters.BackboneAdapter) -> None:
    """In lists, from generators, and stacked; of sizes and kinds of their own; grey as RGB."""
    images = [RGB, CHANNELS_FIRST, Image.fromarray(RGB), RGB[:20, :, 0], torch.rand(33, 20)]
    found = sorted(adapters.extract((image for image in images), backbone), key=lambda item: item.index)
    assert [item.original for item in found] == [(40, 50)] * 3 + [(20, 50), (33, 20)]
    assert torch.equal(found[0].maps[0], found[1].maps[0])
    assert len(list(adapters.extract(np.stack([RGB, RGB]), backbone))) == 2
    stacked = list(adapters.extract(torch.stack([CHANNELS_FIRST] * 2), backbone))
    assert [item.maps[0].shape for item in stacked] == [found[0].maps[0].shape] * 2


def test_dark_images_in_memory_are_noted(backbone: adapters.BackboneAdapter) -> None:
    dark = RGB.astype(np.uint16) * 16
    (found,) = adapters.extract(dark, backbone)
    assert found.note == f"dark: the maximum is {dark.max()} of 65535"
    (scaled,) = adapters.extract(dark, backbone, options=adapters.ExtractionOptions(white=255.0 * 16))
    assert scaled.note is None
    torch.testing.assert_close(scaled.maps[0], fed(backbone, CHANNELS_FIRST / 255)[0][0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([RGB, RGB.astype(np.float32)], r"images\[1\]: float32 pixels of .*, which are outside 0\.\.1: give --white N"),
        (CHANNELS_FIRST.float() - 100, r"images\[0\]: float32 pixels of -.*outside 0\.\.1"),
        (RGB.astype(np.int64), "int64 pixels of 0 to .*, whose white is not known"),
        (RGB.transpose(2, 0, 1), r"images\[0\]: 50 bands, and the model takes 3"),
        (CHANNELS_FIRST.permute(1, 2, 0), "40 bands, and the model takes 3"),
        (np.zeros((4, 4, 4), np.uint8), "4 bands, and the model takes 3"),
        (np.zeros((0, 4, 3), np.uint8), r"images\[0\]: no pixels \(0 x 4\)"),
        (np.zeros(4), r"shape \(4,\); an image is H x W or H x W x C"),
        (torch.zeros(3, 4, 4, device="meta"), "a tensor that is sparse or has no values"),
        (3, r"images\[0\] is a int: give paths, or images in memory"),
        (["a.png", RGB], r"images\[0\] is a str: .*not both at once"),
        ([], "no input"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_images_in_memory_are_refused(backbone: adapters.BackboneAdapter, images: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(adapters.extract(images, backbone))


def test_six_bands_from_memory() -> None:
    """Further bands are normalised as red, green and blue in turn, as timm repeats the first convolution's weights."""
    model = adapters.create_adapter(**TINY, in_channels=6).eval()
    pixels = torch.rand(6, 40, 50, generator=torch.Generator().manual_seed(0))
    (found,) = adapters.extract(pixels.permute(1, 2, 0).numpy(), model)
    mean, std = (torch.tensor(v * 2).view(6, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        expected = model(((pixels - mean) / std)[None])
    torch.testing.assert_close(found.maps[0], expected[0][0], rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="3 bands, and the model takes 6"):
        list(adapters.extract(RGB, model))
