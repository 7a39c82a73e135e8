"""Counting parameters and multiply-adds: without data and for real, and by hand."""

import pytest
from mmcv.ops import ModulatedDeformConv2dPack
from zoo import ZOO, Spec

import adapters
from adapters.describe.backbones import describe_backbone
from adapters.describe.counting import count

COUNTED = ("twins_svt_dense", "swinv2_cr", "vit_rope_reg", "convit_pyramid", "resnet", "swin")


@pytest.mark.parametrize("spec", [spec for spec in ZOO if spec.name in COUNTED], ids=str)
def test_counting_without_data_is_counting_for_real(spec: Spec) -> None:
    """On the meta device, and on the CPU with values."""
    described = describe_backbone(spec.model_name, (70, 100), spec.options)
    adapter = spec.build()
    real = count(adapter, (70, 100), adapter)
    assert described.count == real
    assert described.levels == adapter.levels
    assert real.parameters == sum(parameter.numel() for parameter in adapter.parameters())
    assert 0 <= real.attention < real.multiply_adds


def test_a_count_by_hand() -> None:
    """One block of a ViT on a grid of 4 x 6 patches and a class token."""
    width, heads = 32, 2
    adapter = adapters.TimmAdapter("vit_small_patch16_224", trunk={"depth": 1, "embed_dim": width, "num_heads": heads})
    found = count(adapter, (64, 96), adapter)
    patches = 4 * 6
    tokens = patches + 1
    attention = 2 * tokens * tokens * width
    layers = patches * 3 * 16 * 16 * width + tokens * width * width * (3 + 1 + 4 + 4)
    assert (found.attention, found.multiply_adds) == (attention, attention + layers)


def test_mmcvs_deformable_convolutions_count() -> None:
    """torch's counter does not see them."""
    layer = ModulatedDeformConv2dPack(4, 6, kernel_size=3, padding=1)
    offsets = 4 * 9 * 27
    assert count(layer, (5, 7), layer, channels=4).multiply_adds == 5 * 7 * (4 * 9 * 6 + offsets)
