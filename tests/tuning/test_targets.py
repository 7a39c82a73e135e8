"""Targets by meaning, for families that name their layers differently, and by name."""

from typing import Any

import pytest
from torch import nn

import adapters
from adapters.trunk.build import build_without_data


def layers(model: str, targets: Any, r: int = 1, **options: Any) -> set[str]:
    """The tuned layers of a model, their names without numbers and without what comes before the last two words."""
    peft = dict(r=r, targets=targets)
    adapter = build_without_data(lambda: adapters.TimmAdapter(model, peft=peft, **options))
    assert adapter.low_rank is not None
    names = [[part for part in name.split(".") if not part.isdigit()] for name in adapter.low_rank.layers]
    return {".".join(parts[-2:]) for parts in names}


@pytest.mark.parametrize(
    ("model", "attention", "mlp"),
    [
        ("vit_tiny_patch16_224", "attn.qkv attn.proj", "mlp.fc1 mlp.fc2"),
        ("twins_svt_small", "attn.qkv attn.proj attn.q attn.kv", "mlp.fc1 mlp.fc2"),
        ("twins_pcpvt_small", "attn.proj attn.q attn.kv", "mlp.fc1 mlp.fc2"),
        ("convit_tiny", "attn.qkv attn.proj attn.qk attn.v", "mlp.fc1 mlp.fc2"),
        ("swinv2_cr_tiny_224", "attn.qkv attn.proj", "mlp.fc1 mlp.fc2"),
        ("swinv2_tiny_window8_256", "attn.qkv attn.proj", "mlp.fc1 mlp.fc2"),
        ("eva02_base_patch14_224", "attn.q_proj attn.k_proj attn.v_proj attn.proj", "mlp.fc1_g mlp.fc1_x mlp.fc2"),
        ("vit_small_patch14_dinov2", "attn.qkv attn.proj", "mlp.fc1 mlp.fc2"),
        ("swiftformer_xs", "attn.to_query attn.to_key attn.proj attn.final", "linear.fc1 linear.fc2"),
        ("visformer_tiny", "attn.qkv attn.proj", "mlp.conv1 mlp.conv3"),
        ("levit_128s", "qkv.linear kv.linear ln.linear", "ln1.linear ln2.linear"),
        ("convnext_atto", "", "mlp.fc1 mlp.fc2"),
    ],
)
def test_attention_and_mlps_of_a_family(model: str, attention: str, mlp: str) -> None:
    for meaning, expected in {"attention": attention, "mlp": mlp}.items():
        if expected:
            assert layers(model, meaning) == set(expected.split())


def test_all_is_every_dense_layer_after_the_stem() -> None:
    assert layers("twins_svt_small", "all") == {
        *("attn.qkv", "attn.q", "attn.kv", "attn.proj", "attn.sr"),
        *("mlp.fc1", "mlp.fc2", "patch_embeds.proj"),
    }
    assert layers("resnet10t", "all") == {f"layer{n}.{own}" for n in range(1, 5) for own in ("conv1", "conv2")} | {
        f"layer{n}.downsample" for n in range(2, 5)
    }


def test_layers_smaller_than_their_factors_and_frozen_ones_are_left_alone() -> None:
    assert layers("twins_svt_small", "attention", r=60) == {"attn.qkv", "attn.kv", "attn.proj", "attn.q"}
    adapter = adapters.TimmAdapter("twins_svt_small", peft=dict(r=60), frozen_stages=2)
    assert adapter.low_rank is not None
    assert {name.split(".")[1] for name in adapter.low_rank.layers} == {"2", "3"}
    with pytest.raises(ValueError, match=r"'attention' with r=900 matches no layer .* it has none of any kind"):
        layers("vit_tiny_patch16_224", "attention", r=900)


def test_names_match_ends_of_names() -> None:
    assert layers("vit_tiny_patch16_224", ["qkv", "blocks.3.mlp.fc1"]) == {"attn.qkv", "mlp.fc1"}
    assert layers("vit_tiny_patch16_224", ["patch_embed.proj"]) == {"patch_embed.proj"}


@pytest.mark.parametrize(
    ("model", "targets", "message"),
    [
        ("vit_tiny_patch16_224", ["qvk"], r"vit_tiny_patch16_224 has no layer 'qvk'; the nearest are qkv"),
        ("twins_svt_small", ["query"], r"the nearest are|its layers are named"),
        ("vit_tiny_patch16_224", ["zzzz"], r"its layers are named proj, qkv, fc1, fc2\."),
        ("resnet10t", "attention", r"'attention' with r=1 matches no layer of resnet10t .* it has 'all' \(11 layers\)"),
        ("convnext_atto", ["conv_dw"], r"'conv_dw' matches stages.0.blocks.0.conv_dw .* a convolution of 40 groups"),
        ("nf_regnet_b0", ["conv1"], r"a ScaledStdConv2d, which peft would take for a plain layer"),
    ],
)
def test_a_target_that_fits_nothing_names_the_nearest(model: str, targets: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layers(model, targets)


def test_dilated_convolutions_and_frozen_layers_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"a convolution that is dilated or pads with other than zeros"):
        layers("resnet10t", ["conv2"], trunk={"output_stride": 8})
    with pytest.raises(ValueError, match=r"matches only layers of resnet10t that are frozen .* lower frozen_stages"):
        layers("resnet10t", ["layer1.0.conv1"], frozen_stages=1)


def test_classes_that_hold_factors_stay_torchs_own() -> None:
    adapter = adapters.TimmAdapter("vit_tiny_patch16_224", peft={})
    assert type(adapter.trunk.blocks[0].attn.qkv.base_layer) is nn.Linear
