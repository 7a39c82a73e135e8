"""OpenMMLab's checkpoints: outputs beside mmdet's and mmseg's own classes, and mmpretrain's names."""

from pathlib import Path
from typing import Any

import pytest
import torch
from mmdet.models.backbones.swin import SwinTransformer
from mmseg.models.backbones import BEiT, VisionTransformer
from small_checkpoints import StateDict, assert_holds, below, save, timm_model
from torch import nn
from zoo import TOKENS, image, randomise

import adapters
from adapters.weights.projects.openmmlab import fold_to_timm

VIT, SWIN = "vit_small_patch16_224", "swin_tiny_patch4_window7_224"
SIZES = {"embed_dims": 48, "num_layers": 4, "num_heads": 4, "out_indices": (0, 1, 2, 3)}
NORM = {"type": "LN", "eps": 1e-6}


def ready(model: nn.Module) -> nn.Module:
    """Randomised, in eval mode."""
    randomise(model).eval()
    return model


def assert_same_maps(adapter: nn.Module, model: nn.Module, *sizes: tuple[int, int]) -> None:
    for size in sizes:
        with torch.no_grad():
            for ours, theirs in zip(adapter(image(*size)), model(image(*size)), strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def detector(model: nn.Module, **more: Any) -> dict[str, StateDict]:
    state = {**below(model.state_dict(), "backbone."), "decode_head.conv_seg.weight": torch.ones(2), **more}
    return {"state_dict": state}


def test_mmdets_swin(tmp_path: Path, logged: list[str]) -> None:
    """Its norms after the stages are left out, and said to be; here they do nothing, so that the maps agree."""
    model = ready(SwinTransformer(embed_dims=24, depths=(2, 1, 1, 1), num_heads=(1, 2, 3, 4), drop_path_rate=0.0))
    norms = {f"backbone.norm{stage}.weight": torch.ones(24 * 2**stage) for stage in range(4)}
    path = save(detector(model, **norms), tmp_path / "a.pth")
    for stage in range(4):
        setattr(model, f"norm{stage}", nn.Identity())
    trunk = {"depths": (2, 1, 1, 1), "embed_dim": 24, "num_heads": (1, 2, 3, 4)}
    adapter = adapters.create_adapter(SWIN, weights=path, trunk=trunk).eval()
    assert_same_maps(adapter, model, (224, 224))
    assert "left out 6 (norms of another project's maps: norm0.weight, norm0.bias, ...)" in logged[0]
    assert "where windows do not divide a map, timm's Swin" in logged[0]


@pytest.mark.parametrize("patch_bias", [True, False])
def test_mmsegs_vit(tmp_path: Path, patch_bias: bool) -> None:
    model = ready(VisionTransformer(**SIZES, norm_cfg=NORM, patch_bias=patch_bias))
    path = save(detector(model), tmp_path / "a.pth")
    adapter = adapters.create_adapter(VIT, weights=path, trunk=TOKENS, out_indices=(0, 1, 2, 3)).eval()
    assert_same_maps(adapter, model, (224, 224))


def test_mmsegs_beit(tmp_path: Path) -> None:
    model = ready(BEiT(**SIZES, norm_cfg=NORM))
    path = save(detector(model), tmp_path / "a.pth")
    name = "beit_base_patch16_224"
    adapter = adapters.create_adapter(name, weights=path, trunk=TOKENS, out_indices=(0, 1, 2, 3)).eval()
    assert_same_maps(adapter, model, (224, 224))


def test_folding_is_what_unfold_does() -> None:
    """timm's order of a 2 x 2 patch is that of its own ``PatchMerging``."""
    x = torch.randn(1, 3, 4, 6)
    unfolded = nn.functional.unfold(x, 2, stride=2).transpose(1, 2)
    timms = x.permute(0, 2, 3, 1).reshape(1, 2, 2, 3, 2, 3).permute(0, 1, 3, 4, 2, 5).flatten(3).flatten(1, 2)
    torch.testing.assert_close(fold_to_timm(unfolded), timms)


# mmpretrain, whose classes are not installed: its names, as its modules have them.


def test_mmpretrains_vit_with_layer_scale(tmp_path: Path) -> None:
    name = "deit3_small_patch16_224"
    state = timm_model(name, TOKENS).state_dict()
    made = {key: state[key] for key in ("cls_token", "pos_embed")}
    for kind in ("weight", "bias"):
        made[f"patch_embed.projection.{kind}"] = state[f"patch_embed.proj.{kind}"]
        made[f"ln1.{kind}"] = state[f"norm.{kind}"]
        for number in range(4):
            theirs, timms = f"layers.{number}", f"blocks.{number}"
            for which in "12":
                made[f"{theirs}.ln{which}.{kind}"] = state[f"{timms}.norm{which}.{kind}"]
            for part in ("qkv", "proj"):
                made[f"{theirs}.attn.{part}.{kind}"] = state[f"{timms}.attn.{part}.{kind}"]
            made[f"{theirs}.ffn.layers.0.0.{kind}"] = state[f"{timms}.mlp.fc1.{kind}"]
            made[f"{theirs}.ffn.layers.1.{kind}"] = state[f"{timms}.mlp.fc2.{kind}"]
            made[f"{theirs}.attn.gamma1.weight"] = state[f"{timms}.ls1.gamma"]
            made[f"{theirs}.ffn.gamma2.scale"] = state[f"{timms}.ls2.gamma"]
    classifier = {**below(made, "backbone."), "head.layers.head.weight": torch.ones(1000, 48)}
    path = save({"state_dict": classifier}, tmp_path / "a.pth")
    assert_holds(adapters.create_adapter(name, weights=path, trunk=TOKENS, out_norm=True), state)


@pytest.mark.parametrize("name", ["convnext_tiny", "convnextv2_atto"])
def test_mmpretrains_convnext(tmp_path: Path, name: str) -> None:
    trunk = {"depths": (1, 2, 1, 1), "dims": (8, 16, 24, 32)}
    state = timm_model(name, trunk).state_dict()
    made: StateDict = {}
    for kind in ("weight", "bias"):
        for part in "01":
            made[f"downsample_layers.0.{part}.{kind}"] = state[f"stem.{part}.{kind}"]
            for stage in (1, 2, 3):
                made[f"downsample_layers.{stage}.{part}.{kind}"] = state[f"stages.{stage}.downsample.{part}.{kind}"]
        made[f"norm3.{kind}"] = state[f"head.norm.{kind}"]
        for stage, depth in enumerate(trunk["depths"]):
            for block in range(depth):
                theirs, timms = f"stages.{stage}.{block}", f"stages.{stage}.blocks.{block}"
                made[f"{theirs}.depthwise_conv.{kind}"] = state[f"{timms}.conv_dw.{kind}"]
                made[f"{theirs}.norm.{kind}"] = state[f"{timms}.norm.{kind}"]
                for which in "12":
                    point = state[f"{timms}.mlp.fc{which}.{kind}"]
                    made[f"{theirs}.pointwise_conv{which}.{kind}"] = point.flatten(1) if point.ndim == 4 else point
                if f"{timms}.gamma" in state:
                    made[f"{theirs}.gamma"] = state[f"{timms}.gamma"]
                else:
                    grn = {"weight": "gamma", "bias": "beta"}[kind]
                    made[f"{theirs}.grn.{grn}"] = state[f"{timms}.mlp.grn.{kind}"]
    path = save({"state_dict": below(made, "backbone.")}, tmp_path / "a.pth")
    assert_holds(adapters.create_adapter(name, weights=path, trunk=trunk), state)
