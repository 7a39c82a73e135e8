"""The names of Hugging Face's transformers: ViT, DeiT, BEiT, DINOv2, DINOv3, Swin, SwinV2, ConvNeXt and ConvNeXtV2.

Queries, keys and values are three layers there and one in timm. DINOv2 with registers adds a position to its class
token, which timm has added once and for all; Swin counts the merging of patches to the stage before it.
"""

from collections.abc import Sequence

from adapters.weights.file import StateDict
from adapters.weights.projects.naming import Project, Rule, by_rules

_THIRDS = {"query": "0", "key": "1", "value": "2"}

_BLOCK = r"(?:model\.)?(?:encoder\.)?layers?\.(\d+)\."


def _vit_rules(_: frozenset[str]) -> Sequence[Rule]:
    attention = [
        (
            rf"{_BLOCK}attention\.(?:attention\.)?(?:{layer}|{layer[0]}_proj)\.(\w+)",
            (
                rf"blocks.\1.attn.qkv.\2#{third}",
                rf"blocks.\1.attn.{layer[0]}_\2",
                rf"blocks.\1.attn.{layer[0]}_proj.\2",
            ),
        )
        for layer, third in _THIRDS.items()
    ]
    return [
        (r"embeddings\.(cls_token|mask_token)", (r"\1",)),
        (r"embeddings\.distillation_token", ("dist_token",)),
        (r"embeddings\.register_tokens", ("reg_token",)),
        (r"embeddings\.position_embeddings", ("pos_embed",)),
        (r"embeddings\.patch_embeddings\.(?:projection\.)?(\w+)", (r"patch_embed.proj.\1",)),
        *attention,
        (
            rf"{_BLOCK}attention\.(?:attention\.)?relative_position_bias\.relative_position_bias_table",
            (r"blocks.\1.attn.relative_position_bias_table",),
        ),
        (rf"{_BLOCK}attention\.(?:output\.dense|o_proj)\.(\w+)", (r"blocks.\1.attn.proj.\2",)),
        (rf"{_BLOCK}(?:layernorm_before|norm1)\.(\w+)", (r"blocks.\1.norm1.\2",)),
        (rf"{_BLOCK}(?:layernorm_after|norm2)\.(\w+)", (r"blocks.\1.norm2.\2",)),
        (
            rf"{_BLOCK}(?:layer_scale([12])\.lambda1|lambda_([12]))",
            (r"blocks.\1.ls\2\3.gamma", r"blocks.\1.gamma_\2\3"),
        ),
        (rf"{_BLOCK}mlp\.gate_proj\.(\w+)", (r"blocks.\1.mlp.fc1_g.\2",)),
        (rf"{_BLOCK}mlp\.up_proj\.(\w+)", (r"blocks.\1.mlp.fc1_x.\2", r"blocks.\1.mlp.fc1.\2")),
        (rf"{_BLOCK}(?:intermediate\.dense|mlp\.(?:fc1|weights_in))\.(\w+)", (r"blocks.\1.mlp.fc1.\2",)),
        (rf"{_BLOCK}(?:output\.dense|mlp\.(?:fc2|weights_out|down_proj))\.(\w+)", (r"blocks.\1.mlp.fc2.\2",)),
        (r"(?:layernorm|norm|pooler\.layernorm)\.(\w+)", (r"norm.\1", r"fc_norm.\1")),
    ]


def _add_position_to_class_token(state: StateDict, _: frozenset[str]) -> StateDict:
    """timm's models with registers have no position for the class token: it is added to the token."""
    if not {"reg_token", "cls_token", "pos_embed"} <= state.keys():
        return state
    position, patches = state["pos_embed"].split((1, state["pos_embed"].shape[1] - 1), dim=1)
    return {**state, "cls_token": state["cls_token"] + position, "pos_embed": patches}


_SWIN_BLOCK = r"encoder\.layers\.(\d+)\.blocks\.(\d+)\."


def _swin_rules(names: frozenset[str]) -> Sequence[Rule]:
    block = r"layers.\1.blocks.\2."
    attention = [
        (
            rf"{_SWIN_BLOCK}attention\.self\.{layer}\.(\w+)",
            (rf"{block}attn.qkv.\3#{third}", rf"{block}attn.{layer[0]}_\3"),
        )
        for layer, third in _THIRDS.items()
    ]
    return [
        (r"embeddings\.patch_embeddings\.projection\.(\w+)", (r"patch_embed.proj.\1",)),
        (r"embeddings\.norm\.(\w+)", (r"patch_embed.norm.\1",)),
        *attention,
        (rf"{_SWIN_BLOCK}attention\.self\.continuous_position_bias_mlp\.(.+)", (rf"{block}attn.cpb_mlp.\3",)),
        (rf"{_SWIN_BLOCK}attention\.self\.(relative_position_bias_table|logit_scale)", (rf"{block}attn.\3",)),
        (rf"{_SWIN_BLOCK}attention\.output\.dense\.(\w+)", (rf"{block}attn.proj.\3",)),
        (rf"{_SWIN_BLOCK}layernorm_before\.(\w+)", (rf"{block}norm1.\3",)),
        (rf"{_SWIN_BLOCK}layernorm_after\.(\w+)", (rf"{block}norm2.\3",)),
        (rf"{_SWIN_BLOCK}intermediate\.dense\.(\w+)", (rf"{block}mlp.fc1.\3",)),
        (rf"{_SWIN_BLOCK}output\.dense\.(\w+)", (rf"{block}mlp.fc2.\3",)),
        *(
            (rf"encoder\.layers\.{stage}\.downsample\.(.+)", (rf"layers.{stage + 1}.downsample.\1",))
            for stage in range(stages_of(names) - 1)
        ),
        # Within Mask2Former, this norm alone keeps the prefix.
        (r"(?:swin\.)?layernorm\.(\w+)", (r"norm.\1",)),
    ]


def stages_of(names: frozenset[str]) -> int:
    """Return the number of stages of a Swin from its names."""
    return len({name.split(".")[1] for name in names if name.startswith("layers.")})


_CONVNEXT_BLOCK = r"(?:encoder\.)?stages\.(\d+)\.layers\.(\d+)\."


def _convnext_rules(_: frozenset[str]) -> Sequence[Rule]:
    block = r"stages.\1.blocks.\2."
    return [
        (r"embeddings\.patch_embeddings\.(\w+)", (r"stem.0.\1",)),
        (r"embeddings\.layernorm\.(\w+)", (r"stem.1.\1",)),
        (r"stages\.0\.downsample_layers\.(.+)", (r"stem.\1",)),
        (r"(?:encoder\.)?stages\.(\d+)\.downsampl(?:ing_layer|e_layers)\.(.+)", (r"stages.\1.downsample.\2",)),
        (rf"{_CONVNEXT_BLOCK}(?:dwconv|depthwise_conv)\.(\w+)", (rf"{block}conv_dw.\3",)),
        (rf"{_CONVNEXT_BLOCK}layer_?norm\.(\w+)", (rf"{block}norm.\3",)),
        (rf"{_CONVNEXT_BLOCK}(?:pwconv|pointwise_conv)([12])\.(\w+)", (rf"{block}mlp.fc\3.\4",)),
        (rf"{_CONVNEXT_BLOCK}grn\.(\w+)", (rf"{block}mlp.grn.\3",)),
        (rf"{_CONVNEXT_BLOCK}(?:layer_scale_parameter|gamma)", (rf"{block}gamma",)),
        (r"layer_?norm\.(\w+)", (r"head.norm.\1",)),
    ]


#: timm rolls a map before it pads it to whole windows, all others the other way round.
SWIN_NOTE = "where windows do not divide a map, timm's Swin, which rolls it before it pads it, computes something else"

_OUTPUT_NORMS = r"hidden_states_norms\..+"

PROJECTS = (
    Project(
        "huggingface-vit",
        "transformers'",
        ("vision_transformer", "deit", "eva", "beit"),
        by_rules(_vit_rules),
        finish=_add_position_to_class_token,
    ),
    Project(
        "huggingface-swin",
        "transformers'",
        ("swin_transformer", "swin_transformer_v2"),
        by_rules(_swin_rules),
        note=SWIN_NOTE,
        output_norms=_OUTPUT_NORMS,
    ),
    Project(
        "huggingface-convnext", "transformers'", ("convnext",), by_rules(_convnext_rules), output_norms=_OUTPUT_NORMS
    ),
)
