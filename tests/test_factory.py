"""A user's mistake gets one ValueError that names the value, what is allowed, and what to do."""

from typing import Any

import pytest
import torch
from zoo import CONVIT, TOKENS, TWINS

import adapters

MISTAKES: tuple[tuple[str, dict[str, Any], tuple[str, ...]], ...] = (
    ("twins_svt_smal", {}, ("'twins_svt_smal'", "Did you mean twins_svt_small")),
    ("twins_svt_small.in22k", {}, ("'in22k'", "in1k")),
    ("twins_svt_small", {"out_indices": (0, 4)}, ("holds 4", "twins_svt_small has 4 stages", "-4..3")),
    ("convit_tiny", {"out_indices": (3, -13)}, ("holds -13", "12 blocks")),
    ("twins_svt_small", {"out_indices": (2, 1)}, ("(2, 1)", "not strictly increasing")),
    ("twins_svt_small", {"out_indices": (1, -3)}, ("stands for (1, 1)", "without repeats")),
    ("twins_svt_small", {"out_indices": ()}, ("empty",)),
    ("twins_svt_small", {"out_indices": 3}, ("out_indices=3", "sequence of integers")),
    ("twins_svt_small", {"trunk": {"in_chans": 1}}, ("'in_chans'", "in_channels=...")),
    ("twins_svt_small", {"trunk": {"pretrained": True}}, ("'pretrained'", "weights='timm'")),
    ("twins_svt_small", {"trunk": {"patch_drop_rate": 0.5}}, ("'patch_drop_rate'", "cannot lack tokens")),
    ("twins_svt_small", {"trunk": {"dephts": [1, 1, 1, 1]}}, ("'dephts'", "twins_svt_small")),
    ("twins_svt_small", {"window_padding": "none"}, ("'none'", "'zero', 'mask', 'mmseg'")),
    ("swinv2_cr_tiny_ns_224", {"stage_norm": True}, ("SwinV2CrAdapter", "stage_norm", "out_indices")),
    ("twins_svt_small", {"out_indices": (0, 1), "out_norm": True}, ("out_norm=True", "add 3 to out_indices")),
    ("vit_giant_patch14_clip_224", {"out_norm": True, "trunk": {**TOKENS, "final_norm": False}}, ("no final norm",)),
    ("convit_tiny", {"trunk": {**CONVIT, "attn_drop_rate": 0.1}}, ("attn_drop_rate=0.1", "never forms")),
    ("twins_svt_small", {"trunk": TWINS, "frozen_stages": 7}, ("frozen_stages=7", "0 (the stem)")),
    (
        "twins_svt_small",
        {"trunk": TWINS, "pyramid": {"type": "TapPyramid"}},
        ("one stride", "[4, 8, 16, 32]", "pyramid already"),
    ),
    ("convit_tiny", {"trunk": CONVIT, "pyramid": {"type": "FPN"}}, ("'FPN'", "SimpleFeaturePyramid")),
    ("twins_svt_small", {"weights": "a", "init_cfg": {"type": "Pretrained", "checkpoint": "b"}}, ("both",)),
    ("twins_svt_small", {"init_cfg": {"type": "Kaiming", "layer": "Conv2d"}}, ("Kaiming", "Pretrained")),
)


@pytest.mark.parametrize(("model_name", "options", "says"), MISTAKES, ids=lambda value: str(value)[:40])
def test_a_mistake_is_named(model_name: str, options: dict[str, Any], says: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        adapters.create_adapter(model_name, **options)
    for words in says:
        assert words in str(caught.value)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 1, 32, 32)], ids=str)
def test_an_image_of_the_wrong_shape(shape: tuple[int, ...]) -> None:
    adapter = adapters.create_adapter("twins_svt_small", trunk=TWINS)
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\)"):
        adapter(torch.zeros(shape))
