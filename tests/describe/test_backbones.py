"""Descriptions of timm models: counts beside model cards, and lines for a config that run."""

from typing import Any

import pytest
import timm
import torch
from lab.published import unused_parameters
from mmengine.config import Config
from mmengine.registry import MODELS

import adapters
from adapters.describe.backbones import count_classifier, describe_backbone
from adapters.describe.counting import count_parameters
from adapters.openmmlab.run import register_scope

#: What the model cards state: millions of parameters, thousand millions of multiply-adds, side of the image, and
#: whether attention is among them. (timm counts fused attention as nothing.)
MODEL_CARDS = {
    "twins_svt_large.in1k": (99.3, 15.1, 224, True),
    "vit_betwixt_patch16_rope_reg4_gap_256.sbb_in1k": (60.2, 15.5, 256, False),
    "swinv2_cr_tiny_ns_224.sw_in1k": (28.3, 4.7, 224, True),
    "convit_base.fb_in1k": (86.5, 17.5, 224, True),
}


@pytest.mark.parametrize("name", MODEL_CARDS)
def test_counts_are_those_of_the_model_cards(name: str) -> None:
    parameters, multiply_adds, side, with_attention = MODEL_CARDS[name]
    whole = count_classifier(name, (side, side))
    assert whole.parameters / 1e6 == pytest.approx(parameters, abs=0.06)
    left_out = 0 if with_attention else whole.attention
    assert (whole.multiply_adds - left_out) / 1e9 == pytest.approx(multiply_adds, rel=0.013)
    backbone = describe_backbone(name)
    assert backbone.count.size == (side, side)
    # Ours does without the classifier, and evaluates SwinV2-CR's position bias once for each offset.
    assert backbone.count.multiply_adds == pytest.approx(whole.multiply_adds, rel=0.05)
    adapter = adapters.TimmAdapter(name)
    assert backbone.count.parameters == count_parameters(adapter)
    assert backbone.count.parameters + unused_parameters(adapter) == whole.parameters


@pytest.mark.parametrize("name", ["twins_svt_small", "convit_tiny", "vit_small_patch14_reg4_dinov2", "resnet18"])
def test_the_lines_for_a_config_run(name: str) -> None:
    lines = describe_backbone(name).lines
    scope: dict[str, Any] = {}
    exec(lines, scope)
    assert scope["custom_imports"]["imports"] == ["adapters"]
    model = scope["model"]
    assert model["data_preprocessor"]["mean"] == pytest.approx(
        [255 * v for v in timm.get_pretrained_cfg(name).mean], abs=1e-3
    )
    model["backbone"]["weights"] = None
    cfg = Config(dict(default_scope="mmdet"))
    register_scope(cfg)
    backbone, neck = (MODELS.build(dict(model[part])) for part in ("backbone", "neck"))
    maps = neck(backbone.eval()(torch.zeros(1, 3, 64, 64)))
    assert [feature_map.shape[1] for feature_map in maps] == [256] * 5
    assert [level.stride for level in backbone.levels] == [4, 8, 16, 32]
