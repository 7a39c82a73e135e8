"""Scaling and normalisation are those of timm's own transforms."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from small_images import picture, tiny_extractor
from timm.data import create_transform, resolve_data_config

from adapters.extraction.preprocessing import Preprocessing

RGB = np.asarray(picture(40, 60, np.random.default_rng(0)))


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
    """Preprocess one image as the model gets it."""
    pixels = preprocessing.scale(np.asarray(image))
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


@pytest.mark.parametrize("size", [None, (20,), (10, 70), "native"])
def test_deep_images_and_other_bands_are_scaled_as_rgb_is(size: object) -> None:
    """To what rounding to bytes leaves."""
    config = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.5, 1.0), "interpolation": "bicubic", "input_size": (3, 32, 32)}
    expected = Preprocessing.of_model(config, size).scale(RGB)
    six = Preprocessing.of_model(config, size, 6)
    assert (six.mean, six.std) == ((0.5,) * 6, (0.25, 0.5, 1.0) * 2)
    assert torch.equal(six.scale(np.concatenate([RGB, RGB], axis=2)), torch.cat([expected, expected]))
    deep = six.scale(RGB.astype(np.float32))
    assert deep.dtype == torch.float32
    assert (deep - expected).abs().max() < 1.5
    assert deep.min() >= 0
    assert deep.max() <= 255
    grey = Preprocessing.of_model(config, size, 1)
    assert (grey.mean, grey.std) == ((0.5,), pytest.approx((1.75 / 3,), rel=1e-7))
    assert torch.equal(grey.scale(RGB[:, :, :1]), expected[:1])


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
def test_bands_are_cropped_as_rgb_is(mode: str) -> None:
    config = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "input_size": (3, 48, 48), "crop_mode": mode, "crop_pct": 0.9}
    expected = Preprocessing.of_model(config, "native").scale(RGB)
    assert torch.equal(Preprocessing.of_model(config, "native", 1).scale(RGB[:, :, 1:2]), expected[1:2])
    deep = Preprocessing.of_model(config, "native", 6).scale(RGB[:, :, [0, 1, 2] * 2].astype(np.float32))
    assert (deep[3:] - expected).abs().max() < 1.5


def test_normalisation_of_another_number_of_bands_is_refused() -> None:
    with pytest.raises(ValueError, match="normalise 2 bands, and the model takes 6: give one for each"):
        Preprocessing.of_model({"input_size": (3, 32, 32)}, None, 6, mean=(0.5, 0.5), std=(0.5, 0.5))


def test_normalising_leaves_the_pixels_as_they_are() -> None:
    pixels = torch.full((1, 3, 4, 4), 100.0)
    tiny_extractor().preprocessing.normalise(pixels, [(4, 4)])
    assert (pixels == 100).all()
