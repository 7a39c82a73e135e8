"""Rotary tables are made once for a grid, unless they are learned or drawn anew."""

from typing import Any
from unittest import mock

import pytest
import torch
from timm.layers import RotaryEmbeddingCat, RotaryEmbeddingDinoV3
from torch import Tensor
from zoo import ZOO, image

import adapters
from adapters import BackboneAdapter

KINDS = {
    "vit_rope_reg": (RotaryEmbeddingCat, "_build_embed_cat"),
    "eva02": (RotaryEmbeddingCat, "_build_embed_cat"),
    "dinov3": (RotaryEmbeddingDinoV3, "_create_embed"),
}
each_kind = pytest.mark.parametrize("name", KINDS)


def build(name: str, **trunk: Any) -> BackboneAdapter:
    spec = next(spec for spec in ZOO if spec.name == name)
    torch.manual_seed(0)
    return adapters.TimmAdapter(spec.model_name, **{**spec.options, "trunk": {**spec.options["trunk"], **trunk}})


def made(name: str, adapter: BackboneAdapter, *sizes: tuple[int, int]) -> int:
    """How many tables timm makes for images of these sizes."""
    kind, method = KINDS[name]
    with mock.patch.object(kind, method, autospec=True, side_effect=getattr(kind, method)) as make:
        for size in sizes:
            adapter(image(*size))
    return make.call_count


@each_kind
@pytest.mark.parametrize("train", [False, True])
def test_a_table_is_made_once(name: str, train: bool) -> None:
    adapter = build(name).train(train)
    assert made(name, adapter, (64, 96), (96, 64), (64, 96)) == 2
    with torch.no_grad():
        assert made(name, adapter, (64, 96), (96, 64)) == 0


@each_kind
def test_a_table_from_inference_mode_serves_training(name: str) -> None:
    adapter = build(name)
    with torch.inference_mode():
        maps = adapter(image(64, 96))
    trained = adapter(image(64, 96))
    torch.stack([feature_map.sum() for feature_map in trained]).sum().backward()
    for one, other in zip(maps, trained, strict=True):
        torch.testing.assert_close(one, other.detach(), rtol=1e-5, atol=1e-5)


@each_kind
def test_another_precision_has_its_own(name: str) -> None:
    adapter = build(name)
    adapter(image(64, 96))
    doubled = adapter.double()(image(64, 96).double())
    fresh = build(name).double()(image(64, 96).double())
    for one, other in zip(doubled, fresh, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_augmented_coordinates_are_drawn_at_each_step() -> None:
    adapter = build("dinov3", rope_jitter_coords=2.0)
    adapter.eval()
    assert made("dinov3", adapter, (64, 96), (64, 96)) == 1
    adapter.train()
    torch.manual_seed(0)
    first, second = (adapter(image(64, 96))[-1] for _ in range(2))
    assert not torch.equal(first, second)


def test_learned_tables_have_their_gradient() -> None:
    adapter = build("vit_rope_mixed_ape").train()
    adapter(image(64, 96))
    sum(feature_map.square().mean() for feature_map in adapter(image(64, 96))).backward()
    gradient: Tensor = adapter.trunk.rope.freqs.grad
    assert gradient.abs().sum() > 0
    assert isinstance(adapter, adapters.VisionTransformerAdapter)
