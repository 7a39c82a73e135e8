"""transformers' checkpoints, which are written here as its models lay them out, module by module."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_checkpoints import StateDict, assert_holds, below, save, timm_model
from zoo import TOKENS

import adapters

KINDS = ("weight", "bias")
SWIN = {"depths": (2, 1, 1, 1), "embed_dim": 24, "num_heads": (1, 2, 3, 4)}
CONVNEXT = {"depths": (1, 2, 1, 1), "dims": (8, 16, 24, 32)}


def layer(state: StateDict, theirs: str, timms: str) -> StateDict:
    """The weight and the bias of a layer, as far as there are some."""
    return {f"{theirs}.{kind}": state[f"{timms}.{kind}"] for kind in KINDS if f"{timms}.{kind}" in state}


def attention(state: StateDict, theirs: tuple[str, str, str], timms: str) -> StateDict:
    """Queries, keys and values as three layers; timm has biases for all in one, for two of them, or for none."""
    state = dict(state)
    if f"{timms}.q_bias" in state:
        state[f"{timms}.qkv.bias"] = torch.cat(
            [state[f"{timms}.q_bias"], torch.zeros(len(state[f"{timms}.q_bias"])), state[f"{timms}.v_bias"]]
        )
    made: StateDict = {}
    for kind in KINDS:
        if f"{timms}.qkv.{kind}" in state:
            parts = state[f"{timms}.qkv.{kind}"].chunk(3)
            made |= {f"{name}.{kind}": part for name, part in zip(theirs, parts, strict=True)}
    if f"{timms}.q_bias" in state:
        del made[f"{theirs[1]}.bias"]
    return made


def vit(state: StateDict) -> StateDict:
    """``ViTForImageClassification``, with ``DeiT``'s token where there is one."""
    made = {
        "embeddings.cls_token": state["cls_token"],
        "embeddings.position_embeddings": state["pos_embed"],
        **layer(state, "embeddings.patch_embeddings.projection", "patch_embed.proj"),
        **layer(state, "layernorm", "norm"),
    }
    if "dist_token" in state:
        made["embeddings.distillation_token"] = state["dist_token"]
    for number in range(TOKENS["depth"]):
        theirs, timms = f"encoder.layer.{number}", f"blocks.{number}"
        inner = f"{theirs}.attention.attention"
        made |= attention(state, (f"{inner}.query", f"{inner}.key", f"{inner}.value"), f"{timms}.attn")
        made |= layer(state, f"{theirs}.attention.output.dense", f"{timms}.attn.proj")
        made |= layer(state, f"{theirs}.intermediate.dense", f"{timms}.mlp.fc1")
        made |= layer(state, f"{theirs}.output.dense", f"{timms}.mlp.fc2")
        made |= layer(state, f"{theirs}.layernorm_before", f"{timms}.norm1")
        made |= layer(state, f"{theirs}.layernorm_after", f"{timms}.norm2")
    return {**below(made, "vit."), "classifier.weight": torch.ones(10, TOKENS["embed_dim"])}


def beit(state: StateDict) -> StateDict:
    """``BeitModel``: ViT's names, scales, and a table of positions in each layer."""
    made = {key: value for key, value in vit({**state, "pos_embed": torch.zeros(1)}).items() if "position" not in key}
    for number in range(TOKENS["depth"]):
        theirs, timms = f"vit.encoder.layer.{number}", f"blocks.{number}"
        for which in "12":
            made[f"{theirs}.lambda_{which}"] = state[f"{timms}.gamma_{which}"]
        table = "attention.attention.relative_position_bias.relative_position_bias_"
        made[f"{theirs}.{table}table"] = state[f"{timms}.attn.relative_position_bias_table"]
    return {key.replace("vit.", "beit."): value for key, value in made.items()}


def dinov2(state: StateDict) -> StateDict:
    """``Dinov2Model``, and ``Dinov2WithRegistersModel`` where there are registers."""
    width = TOKENS["embed_dim"]
    made = {"embeddings.mask_token": torch.ones(1, width), **layer(state, "layernorm", "norm")}
    made |= layer(state, "embeddings.patch_embeddings.projection", "patch_embed.proj")
    if "reg_token" in state:
        position = torch.full((1, 1, width), 0.25)
        made["embeddings.register_tokens"] = state["reg_token"]
        made["embeddings.cls_token"] = state["cls_token"] - position
        made["embeddings.position_embeddings"] = torch.cat([position, state["pos_embed"]], dim=1)
    else:
        made["embeddings.cls_token"] = state["cls_token"]
        made["embeddings.position_embeddings"] = state["pos_embed"]
    for number in range(TOKENS["depth"]):
        theirs, timms = f"encoder.layer.{number}", f"blocks.{number}"
        inner = f"{theirs}.attention.attention"
        made |= attention(state, (f"{inner}.query", f"{inner}.key", f"{inner}.value"), f"{timms}.attn")
        made |= layer(state, f"{theirs}.attention.output.dense", f"{timms}.attn.proj")
        for which in "12":
            made |= layer(state, f"{theirs}.norm{which}", f"{timms}.norm{which}")
            made[f"{theirs}.layer_scale{which}.lambda1"] = state[f"{timms}.ls{which}.gamma"]
        gated = state[f"{timms}.mlp.fc1.weight"].shape[0] != state[f"{timms}.mlp.fc2.weight"].shape[1]
        for name, which in zip(("weights_in", "weights_out") if gated else ("fc1", "fc2"), "12", strict=True):
            made |= layer(state, f"{theirs}.mlp.{name}", f"{timms}.mlp.fc{which}")
    return below(made, "dinov2.")


def dinov3(state: StateDict) -> StateDict:
    """``DINOv3ViTModel``."""
    made = {
        "embeddings.cls_token": state["cls_token"],
        "embeddings.mask_token": torch.zeros(1, 1, TOKENS["embed_dim"]),
        "embeddings.register_tokens": state["reg_token"],
        **layer(state, "embeddings.patch_embeddings", "patch_embed.proj"),
        **layer(state, "norm", "norm"),
    }
    for number in range(TOKENS["depth"]):
        theirs, timms = f"layer.{number}", f"blocks.{number}"
        inner = f"{theirs}.attention"
        made |= attention(state, (f"{inner}.q_proj", f"{inner}.k_proj", f"{inner}.v_proj"), f"{timms}.attn")
        made |= layer(state, f"{inner}.o_proj", f"{timms}.attn.proj")
        for which in "12":
            made |= layer(state, f"{theirs}.norm{which}", f"{timms}.norm{which}")
            made[f"{theirs}.layer_scale{which}.lambda1"] = state[f"{timms}.gamma_{which}"]
        gated = f"{timms}.mlp.fc1_g.weight" in state
        made |= layer(state, f"{theirs}.mlp.up_proj", f"{timms}.mlp.fc1_x" if gated else f"{timms}.mlp.fc1")
        made |= layer(state, f"{theirs}.mlp.gate_proj", f"{timms}.mlp.fc1_g")
        made |= layer(state, f"{theirs}.mlp.down_proj", f"{timms}.mlp.fc2")
    return made


def swin(state: StateDict) -> StateDict:
    """``SwinModel`` and ``Swinv2Model``, as a detector of transformers keeps them."""
    made = layer(state, "embeddings.patch_embeddings.projection", "patch_embed.proj")
    made |= layer(state, "embeddings.norm", "patch_embed.norm")
    made |= layer(state, "layernorm", "norm")
    made |= {"hidden_states_norms.stage1.weight": torch.ones(24)}
    for stage, depth in enumerate(SWIN["depths"]):
        for block in range(depth):
            theirs, timms = f"encoder.layers.{stage}.blocks.{block}", f"layers.{stage}.blocks.{block}"
            inner = f"{theirs}.attention.self"
            made |= attention(state, (f"{inner}.query", f"{inner}.key", f"{inner}.value"), f"{timms}.attn")
            for name in ("relative_position_bias_table", "logit_scale"):
                if f"{timms}.attn.{name}" in state:
                    made[f"{inner}.{name}"] = state[f"{timms}.attn.{name}"]
            made[f"{inner}.relative_position_index"] = torch.zeros(49, 49, dtype=torch.int64)
            for number in "02":
                made |= layer(state, f"{inner}.continuous_position_bias_mlp.{number}", f"{timms}.attn.cpb_mlp.{number}")
            made |= layer(state, f"{theirs}.attention.output.dense", f"{timms}.attn.proj")
            made |= layer(state, f"{theirs}.layernorm_before", f"{timms}.norm1")
            made |= layer(state, f"{theirs}.layernorm_after", f"{timms}.norm2")
            made |= layer(state, f"{theirs}.intermediate.dense", f"{timms}.mlp.fc1")
            made |= layer(state, f"{theirs}.output.dense", f"{timms}.mlp.fc2")
        for name in ("norm", "reduction"):
            made |= layer(state, f"encoder.layers.{stage}.downsample.{name}", f"layers.{stage + 1}.downsample.{name}")
    return below(made, "model.backbone.conv_encoder.model.")


def convnext(state: StateDict) -> StateDict:
    """``ConvNextModel`` and ``ConvNextV2Model``."""
    made = layer(state, "embeddings.patch_embeddings", "stem.0") | layer(state, "embeddings.layernorm", "stem.1")
    for stage, depth in enumerate(CONVNEXT["depths"]):
        for number in "01":
            theirs = f"encoder.stages.{stage}.downsampling_layer.{number}"
            made |= layer(state, theirs, f"stages.{stage}.downsample.{number}")
        for block in range(depth):
            theirs, timms = f"encoder.stages.{stage}.layers.{block}", f"stages.{stage}.blocks.{block}"
            made |= layer(state, f"{theirs}.dwconv", f"{timms}.conv_dw")
            made |= layer(state, f"{theirs}.layernorm", f"{timms}.norm")
            for which in "12":
                point = layer(state, f"{theirs}.pwconv{which}", f"{timms}.mlp.fc{which}")
                made |= {key: tensor.flatten(1) if tensor.ndim == 4 else tensor for key, tensor in point.items()}
            if f"{timms}.mlp.grn.weight" in state:
                made |= {
                    f"{theirs}.grn.{kind}": state[f"{timms}.mlp.grn.{kind}"].reshape(1, 1, 1, -1) for kind in KINDS
                }
            else:
                made[f"{theirs}.layer_scale_parameter"] = state[f"{timms}.gamma"]
    return {**below(made, "convnext."), **layer(state, "convnext.layernorm", "head.norm")}


def dinov3_convnext(state: StateDict) -> StateDict:
    """``DINOv3ConvNextModel``, whose first stage has the stem."""
    made = layer(state, "layer_norm", "head.norm")
    for stage, depth in enumerate(CONVNEXT["depths"]):
        for number in "01":
            timms = f"stem.{number}" if stage == 0 else f"stages.{stage}.downsample.{number}"
            made |= layer(state, f"stages.{stage}.downsample_layers.{number}", timms)
        for block in range(depth):
            theirs, timms = f"stages.{stage}.layers.{block}", f"stages.{stage}.blocks.{block}"
            made |= layer(state, f"{theirs}.depthwise_conv", f"{timms}.conv_dw")
            made |= layer(state, f"{theirs}.layer_norm", f"{timms}.norm")
            made |= layer(state, f"{theirs}.pointwise_conv1", f"{timms}.mlp.fc1")
            made |= layer(state, f"{theirs}.pointwise_conv2", f"{timms}.mlp.fc2")
            made[f"{theirs}.gamma"] = state[f"{timms}.gamma"]
    return made


MODELS: dict[str, tuple[Callable[[StateDict], StateDict], dict[str, Any]]] = {
    "vit_small_patch16_224": (vit, TOKENS),
    "deit_tiny_distilled_patch16_224": (vit, TOKENS),
    "beit_base_patch16_224": (beit, TOKENS),
    "vit_small_patch14_dinov2": (dinov2, TOKENS),
    "vit_small_patch14_reg4_dinov2": (dinov2, TOKENS),
    "vit_giant_patch14_dinov2": (dinov2, TOKENS),
    "vit_small_patch16_dinov3": (dinov3, TOKENS),
    "vit_small_patch16_dinov3_qkvb": (dinov3, TOKENS),
    "vit_small_plus_patch16_dinov3": (dinov3, TOKENS),
    "swin_tiny_patch4_window7_224": (swin, SWIN),
    "swinv2_tiny_window8_256": (swin, SWIN),
    "convnext_tiny": (convnext, CONVNEXT),
    "convnext_atto": (convnext, CONVNEXT),
    "convnextv2_atto": (convnext, CONVNEXT),
    "convnext_small": (dinov3_convnext, CONVNEXT),
}


@pytest.mark.parametrize("model_name", MODELS)
def test_transformers_checkpoints(tmp_path: Path, logged: list[str], model_name: str) -> None:
    write, trunk = MODELS[model_name]
    model = timm_model(model_name, trunk)
    path = save(write(model.state_dict()), tmp_path / "a.bin")
    adapter = adapters.create_adapter(model_name, weights=path, trunk=trunk)
    for key, tensor in adapter.trunk.state_dict().items():
        torch.testing.assert_close(tensor, model.state_dict()[key])
    assert "(transformers' names" in logged[0]


def test_a_part_of_fused_attention_that_is_missing(tmp_path: Path) -> None:
    state = vit(timm_model("vit_small_patch16_224", TOKENS).state_dict())
    del state["vit.encoder.layer.1.attention.attention.key.weight"]
    with pytest.raises(ValueError, match=r"(?s)unexpected +encoder\.layer\.1\..*query\.weight.*missing +blocks\.1\."):
        adapters.create_adapter("vit_small_patch16_224", weights=save(state, tmp_path / "a.bin"), trunk=TOKENS)


def test_biases_that_timms_model_has_not(tmp_path: Path, logged: list[str]) -> None:
    """Meta's DINOv3 files hold biases of zero; those that somebody trained are not zero."""
    model = timm_model("vit_small_patch16_dinov3", TOKENS)
    width = TOKENS["embed_dim"]
    biases = {f"layer.{number}.attention.q_proj.bias": torch.zeros(width) for number in range(TOKENS["depth"])}
    state = {**dinov3(model.state_dict()), **biases}
    path = save(state, tmp_path / "a.bin")
    assert_holds(adapters.create_adapter("vit_small_patch16_dinov3", weights=path, trunk=TOKENS), model.state_dict())
    assert "left out 4 (biases of zero: layer.0.attention.q_proj.bias" in logged[0]
    state["layer.2.attention.q_proj.bias"] = torch.ones(width)
    with pytest.raises(ValueError, match=r"1 problem,.*\n +unexpected +layer\.2\.attention\.q_proj\.bias"):
        adapters.create_adapter("vit_small_patch16_dinov3", weights=save(state, tmp_path / "a.bin"), trunk=TOKENS)


def test_a_swin_within_another_model(tmp_path: Path, logged: list[str]) -> None:
    """Mask2Former's files lack Swin's own prefix, but for the norm that Mask2Former does not use."""
    model = timm_model("swin_tiny_patch4_window7_224", SWIN)
    inner = "model.pixel_level_module.encoder."
    state = {
        re.sub(r"^.*?(?=embeddings|encoder\.layers|layernorm|hidden_states)", inner, key): value
        for key, value in swin(model.state_dict()).items()
    }
    state = {key.replace(f"{inner}layernorm", f"{inner}swin.layernorm"): value for key, value in state.items()}
    path = save(state, tmp_path / "a.bin")
    adapter = adapters.create_adapter("swin_tiny_patch4_window7_224", weights=path, trunk=SWIN)
    assert_holds(adapter, model.state_dict())
    assert "left out 2 (not needed for these maps: norm.weight, norm.bias)" in logged[0]


@pytest.mark.parametrize("name", ["layernorm", "pooler.layernorm"])
def test_beits_norm_before_or_behind_the_pooling(tmp_path: Path, name: str) -> None:
    model = timm_model("beit_base_patch16_224", TOKENS)
    state = {key: value for key, value in beit(model.state_dict()).items() if "layernorm." not in key}
    scale = torch.randn(TOKENS["embed_dim"])
    state |= {f"beit.{name}.weight": scale, f"beit.{name}.bias": -scale}
    path = save(state, tmp_path / "a.bin")
    adapter = adapters.create_adapter("beit_base_patch16_224", weights=path, trunk=TOKENS, out_norm=True)
    assert torch.equal(adapter.trunk.fc_norm.weight, scale)
    assert torch.equal(adapter.trunk.fc_norm.bias, -scale)
