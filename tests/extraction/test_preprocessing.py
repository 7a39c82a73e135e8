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
