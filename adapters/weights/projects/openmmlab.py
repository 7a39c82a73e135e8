"""The names of OpenMMLab for ViT, BEiT, Swin and ConvNeXt: mmpretrain's, mmdet's and mmseg's, which differ little.

mmseg's ViT runs attention through ``nn.MultiheadAttention``. The merging of patches in Swin unfolds each 2 x 2 of them
channel by channel and row by row, where timm and the authors go patch by patch and column by column, and it belongs to
the stage before it.
"""

from collections.abc import Sequence

from torch import Tensor

from adapters.weights.file import StateDict
from adapters.weights.projects.huggingface import SWIN_NOTE, stages_of
from adapters.weights.projects.naming import Project, Rule, by_rules

_BLOCK = r"layers\.(\d+)\."


def _vit_rules(_: frozenset[str]) -> Sequence[Rule]:
    block = r"blocks.\1."
    return [
        (r"(cls_token|dist_token|pos_embed)", (r"\1",)),
        (r"patch_embed\.projection\.(\w+)", (r"patch_embed.proj.\1",)),
        (rf"{_BLOCK}(?:ln|norm)([12])\.(\w+)", (rf"{block}norm\2.\3",)),
        (rf"{_BLOCK}attn\.attn\.in_proj_(\w+)", (rf"{block}attn.qkv.\2",)),
        (rf"{_BLOCK}attn\.attn\.out_proj\.(\w+)", (rf"{block}attn.proj.\2",)),
        (rf"{_BLOCK}attn\.gamma1\.\w+", (rf"{block}ls1.gamma", rf"{block}gamma_1")),
        (rf"{_BLOCK}attn\.(.+)", (rf"{block}attn.\2",)),
        (rf"{_BLOCK}ffn\.gamma2\.\w+", (rf"{block}ls2.gamma", rf"{block}gamma_2")),
        (rf"{_BLOCK}gamma_([12])", (rf"{block}gamma_\2", rf"{block}ls\2.gamma")),
        (rf"{_BLOCK}ffn\.(?:layers\.0\.0|w12)\.(\w+)", (rf"{block}mlp.fc1.\2",)),
        (rf"{_BLOCK}ffn\.(?:layers\.1|w3)\.(\w+)", (rf"{block}mlp.fc2.\2",)),
        (r"(?:pre_norm|ln_pre)\.(\w+)", (r"norm_pre.\1",)),
        (r"(?:ln|norm)1\.(\w+)", (r"norm.\1",)),
        (r"(?:ln|norm)2\.(\w+)", (r"fc_norm.\1",)),
    ]


def _fill_in_bias(state: StateDict, names: frozenset[str]) -> StateDict:
    """mmseg's ViT embeds patches without a bias: one of zero does the same."""
    weight, bias = state.get("patch_embed.proj.weight"), "patch_embed.proj.bias"
    if weight is None or bias in state or bias not in names:
        return state
    return {**state, bias: weight.new_zeros(len(weight))}


_SWIN_BLOCK = r"stages\.(\d+)\.blocks\.(\d+)\."


def _swin_rules(names: frozenset[str]) -> Sequence[Rule]:
    block = r"layers.\1.blocks.\2."
    stages = stages_of(names)
    return [
        (r"patch_embed\.projection\.(\w+)", (r"patch_embed.proj.\1",)),
        (r"patch_embed\.norm\.(\w+)", (r"patch_embed.norm.\1",)),
        (rf"{_SWIN_BLOCK}norm([12])\.(\w+)", (rf"{block}norm\3.\4",)),
        (rf"{_SWIN_BLOCK}attn\.w_msa\.(.+)", (rf"{block}attn.\3",)),
        (rf"{_SWIN_BLOCK}ffn\.layers\.0\.0\.(\w+)", (rf"{block}mlp.fc1.\3",)),
        (rf"{_SWIN_BLOCK}ffn\.layers\.1\.(\w+)", (rf"{block}mlp.fc2.\3",)),
        *(
            (rf"stages\.{stage}\.downsample\.(.+)", (rf"layers.{stage + 1}.downsample.\1",))
            for stage in range(stages - 1)
        ),
        (rf"norm{stages - 1}\.(\w+)", (r"norm.\1",)),
    ]


def fold_to_timm(tensor: Tensor) -> Tensor:
    """Reorder the inputs of a merging of patches: ``(..., 4C)`` from channel, row, column to column, row, channel."""
    channels = tensor.shape[-1] // 4
    return tensor.unflatten(-1, (channels, 2, 2)).transpose(-3, -1).flatten(-3)


_CONVNEXT_BLOCK = r"stages\.(\d+)\.(\d+)\."


def _convnext_rules(names: frozenset[str]) -> Sequence[Rule]:
    block = r"stages.\1.blocks.\2."
    last = len({name.split(".")[1] for name in names if name.startswith("stages.")}) - 1
    return [
        (r"downsample_layers\.0\.(.+)", (r"stem.\1",)),
        (r"downsample_layers\.(\d+)\.(.+)", (r"stages.\1.downsample.\2",)),
        (rf"{_CONVNEXT_BLOCK}depthwise_conv\.(\w+)", (rf"{block}conv_dw.\3",)),
        (rf"{_CONVNEXT_BLOCK}pointwise_conv([12])\.(\w+)", (rf"{block}mlp.fc\3.\4",)),
        (rf"{_CONVNEXT_BLOCK}grn\.gamma", (rf"{block}mlp.grn.weight",)),
        (rf"{_CONVNEXT_BLOCK}grn\.beta", (rf"{block}mlp.grn.bias",)),
        (rf"{_CONVNEXT_BLOCK}(norm\.\w+|gamma)", (rf"{block}\3",)),
        (rf"norm{last}\.(\w+)", (r"head.norm.\1",)),
    ]


_OUTPUT_NORMS = r"norm\d\.(weight|bias)"

PROJECTS = (
    Project(
        "openmmlab-vit",
        "OpenMMLab's",
        ("vision_transformer", "deit", "eva", "beit"),
        by_rules(_vit_rules),
        finish=_fill_in_bias,
    ),
    Project(
        "openmmlab-swin",
        "OpenMMLab's",
        ("swin_transformer",),
        by_rules(_swin_rules),
        layouts=((r"layers\.\d+\.downsample\.(reduction\.weight|norm\.\w+)", fold_to_timm),),
        note=SWIN_NOTE,
        output_norms=_OUTPUT_NORMS,
    ),
    Project("openmmlab-convnext", "OpenMMLab's", ("convnext",), by_rules(_convnext_rules), output_norms=_OUTPUT_NORMS),
)
