"""Twins in OpenMMLab's words: the backbones ``PCPVT`` and ``SVT`` of mmseg and of mmpretrain.

Both renamed the original modules. mmseg also runs global attention through ``nn.MultiheadAttention``, which keeps
queries, keys and values in one tensor where the original has ``q`` and ``kv``. Each has its own name for the norms
after the stages of a dense model; in a classifier of mmpretrain's, the norm after the last stage is the final norm of
the others.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

StateDict = dict[str, Tensor]

#: timm's name of a module -> OpenMMLab's. ``{blocks}`` and ``{norms}`` are where mmseg and mmpretrain differ.
COMMON = (
    ("patch_embeds.#.proj", "patch_embeds.#.projection"),
    ("patch_embeds.#.norm", "patch_embeds.#.norm"),
    ("pos_block.#.proj.0", "position_encodings.#.proj"),
    ("blocks.#.#.norm1", "{blocks}.#.#.norm1"),
    ("blocks.#.#.norm2", "{blocks}.#.#.norm2"),
    ("blocks.#.#.mlp.fc1", "{blocks}.#.#.ffn.layers.0.0"),
    ("blocks.#.#.mlp.fc2", "{blocks}.#.#.ffn.layers.1"),
    ("blocks.#.#.attn.qkv", "{blocks}.#.#.attn.qkv"),
    ("blocks.#.#.attn.sr", "{blocks}.#.#.attn.sr"),
    ("blocks.#.#.attn.norm", "{blocks}.#.#.attn.norm"),
    ("norm_list.#", "{norms}"),
)
MMPRETRAIN = (
    ("blocks.#.#.attn.q", "{blocks}.#.#.attn.q"),
    ("blocks.#.#.attn.kv", "{blocks}.#.#.attn.kv"),
    ("blocks.#.#.attn.proj", "{blocks}.#.#.attn.proj"),
)


@dataclass(frozen=True)
class Dialect:
    """How one project names the parts of Twins.

    Attributes:
        blocks: the list of stages.
        norms: a norm after a stage.
        fused: global attention is an ``nn.MultiheadAttention``.
    """

    blocks: str
    norms: str
    fused: bool

    def renames(self) -> list[tuple[str, str]]:
        """Pairs of names, timm's first, ``#`` for a number."""
        pairs = COMMON if self.fused else COMMON + MMPRETRAIN
        return [(ours, theirs.format(blocks=self.blocks, norms=self.norms)) for ours, theirs in pairs]


MMSEG = Dialect("layers", "norm_list.#", fused=True)
MMPRETRAIN_DIALECT = Dialect("stages", "norm_after_stage#", fused=False)


def to_openmmlab(state: Mapping[str, Tensor], dialect: Dialect) -> tuple[StateDict, StateDict]:
    """timm's names to OpenMMLab's.

    Returns:
        The renamed tensors, and those under their own names for which the dialect's backbone has no place.
    """
    renamed: StateDict = {}
    left: StateDict = {}
    last, dense = _last_stage(state), "norm_list.0.weight" in state
    for key, tensor in state.items():
        attention = re.fullmatch(r"blocks\.(\d+\.\d+)\.attn\.(q|kv|proj)\.(weight|bias)", key)
        if name := _rename(key, dialect.renames()):
            renamed[name] = tensor
        elif attention and dialect.fused:
            block, part, kind = attention.groups()
            prefix = f"{dialect.blocks}.{block}.attn"
            if part == "proj":
                local = f"blocks.{block}.attn.qkv.weight" in state
                renamed[f"{prefix}.proj.{kind}" if local else f"{prefix}.attn.out_proj.{kind}"] = tensor
            else:
                parts = [state[f"blocks.{block}.attn.{name}.{kind}"] for name in ("q", "kv")]
                renamed[f"{prefix}.attn.in_proj_{kind}"] = torch.cat(parts)
        elif key.startswith("norm.") and not dialect.fused and not dense:
            renamed[f"norm_after_stage{last}.{key.removeprefix('norm.')}"] = tensor
        else:
            left[key] = tensor
    return renamed, left


def from_openmmlab(state: Mapping[str, Tensor], dialect: Dialect) -> StateDict:
    """OpenMMLab's names to timm's; a name that is not of the backbone stays as it is.

    Attention that was built without biases (``qkv_bias=False``) gets biases of zero, which do the same: timm's always
    has them.
    """
    renamed: StateDict = {}
    last = _last_stage(state)
    dense = "norm_after_stage0.weight" in state
    backwards = [(theirs, ours) for ours, theirs in dialect.renames()]
    for key, tensor in state.items():
        attention = re.fullmatch(
            rf"{dialect.blocks}\.(\d+\.\d+)\.attn\.(attn\.in_proj_|attn\.out_proj\.|proj\.)(weight|bias)", key
        )
        if dialect.fused and attention:
            block, part, kind = attention.groups()
            prefix = f"blocks.{block}.attn"
            if part == "attn.in_proj_":
                channels = tensor.shape[0] // 3
                renamed[f"{prefix}.q.{kind}"], renamed[f"{prefix}.kv.{kind}"] = tensor.split((channels, 2 * channels))
            else:
                renamed[f"{prefix}.proj.{kind}"] = tensor
        elif key.startswith(f"norm_after_stage{last}.") and not dialect.fused and not dense:
            renamed[f"norm.{key.split('.', 1)[1]}"] = tensor
        else:
            renamed[_rename(key, backwards) or key] = tensor
    for key in list(renamed):
        bias = key.removesuffix("weight") + "bias"
        if re.fullmatch(r"blocks\.\d+\.\d+\.attn\.(q|kv|qkv|proj)\.weight", key) and bias not in renamed:
            renamed[bias] = renamed[key].new_zeros(len(renamed[key]))
    return renamed


def _last_stage(state: Mapping[str, Tensor]) -> int:
    return max((int(key.split(".")[1]) for key in state if re.match(r"patch_embeds\.\d+\.", key)), default=0)


def _rename(key: str, pairs: list[tuple[str, str]]) -> str | None:
    """``key`` by the first pair whose left side names its module; None where there is none."""
    module, _, kind = key.rpartition(".")
    for left, right in pairs:
        if match := re.fullmatch(left.replace(".", r"\.").replace("#", r"(\d+)"), module):
            for number in match.groups():
                right = right.replace("#", number, 1)
            return f"{right}.{kind}"
    return None
