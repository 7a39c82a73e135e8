"""The normalisation of the weights is timm's, also for other channels than three."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform
from timm.models import adapt_input_conv
from torch import Tensor

from adapters import TimmAdapter
from adapters.preprocessing import Normalisation

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
SMALL = {"depth": 1, "embed_dim": 24, "num_heads": 2}


def normalise(pixels: Tensor, values: Normalisation) -> Tensor:
    """``(C, H, W)`` of 0..255, as the values say."""
    mean, std = (torch.tensor(numbers).view(-1, 1, 1) for numbers in (values.mean, values.std))
    return (pixels.float() - mean) / std


@pytest.mark.parametrize(
    "name", ["vit_base_patch16_224.augreg_in21k", "vit_base_patch16_224.dino", "vit_base_patch16_clip_224.openai"]
)
def test_the_values_are_those_of_the_tag(name: str) -> None:
    cfg = timm.get_pretrained_cfg(name)
    transform = create_transform(
        input_size=(3, 20, 30), crop_pct=1.0, mean=cfg.mean, std=cfg.std, interpolation="bicubic"
    )
    adapter = TimmAdapter(name, trunk=SMALL)
    found = normalise(torch.from_numpy(PIXELS).permute(2, 0, 1), adapter.preprocessing)
    torch.testing.assert_close(found, transform(Image.fromarray(PIXELS)), rtol=1e-5, atol=1e-6)
    assert adapter.preprocessing.channel_order == "RGB"
    assert adapter.preprocessing.of_unit_pixels() == (tuple(cfg.mean), tuple(cfg.std))


def test_numbers_are_as_configs_write_them() -> None:
    values = TimmAdapter("resnet18", trunk={"layers": [1, 1, 1, 1]}).preprocessing
    assert values == Normalisation((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    assert str(values) == "mean [123.675, 116.28, 103.53], std [58.395, 57.12, 57.375], RGB"


def test_more_channels_take_the_values_in_the_turns_of_their_weights() -> None:
    cfg = timm.get_pretrained_cfg("resnet18").to_dict()
    image = torch.from_numpy(PIXELS).permute(2, 0, 1)
    weight = torch.randn(4, 3, 3, 3)
    expected = torch.nn.functional.conv2d(normalise(image, Normalisation.of_timm(cfg)), weight)
    six = normalise(torch.cat([image, image]), Normalisation.of_timm(cfg, 6))
    found = torch.nn.functional.conv2d(six, adapt_input_conv(6, weight))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert Normalisation.of_timm(cfg, 5).mean == (123.675, 116.28, 103.53, 123.675, 116.28)
    assert Normalisation.of_timm(cfg, 5).channel_order is None


def test_one_channel_takes_the_average() -> None:
    values = TimmAdapter("resnet18", in_channels=1, trunk={"layers": [1, 1, 1, 1]}).preprocessing
    assert values.mean == pytest.approx((114.495,))
    assert str(values) == "mean [114.495], std [57.63], 1 channel"
