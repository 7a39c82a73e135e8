"""The key formats that a checkpoint may have: from each project's names to timm's, and back.

All but Twins have timm's names or this package's. OpenMMLab renamed the modules of Twins in ``PCPVT`` and ``SVT`` of
mmseg and of mmpretrain. mmseg also runs global attention through ``nn.MultiheadAttention``, which keeps queries, keys
and values in one tensor where the original has ``q`` and ``kv``. Each has its own name for the norms after the stages
of a dense model, ``norm_list`` in the original; in a classifier of mmpretrain's, the norm after the last stage is the
final norm of the others. Both projects build the norms of the blocks with an epsilon of 1e-5 where timm and the
original code have 1e-6, so that outputs differ by some 5e-6 of their size; no format carries the epsilon.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.weights.file import StateDict

#: Beginnings of the names that an adapter's own state dict has for timm's model and for a pyramid.
TRUNK, PYRAMID = "trunk.", "pyramid."

#: The key below which a converted checkpoint keeps the tensors that its format has no place for, under timm's names.
LEFT_OUT = "left_out"

#: Keys of earlier versions of this package that mean nothing any more.
OBSOLETE = frozenset({"norm_eps"})


@dataclass(frozen=True)
class Format:
    """One project's names of a backbone's tensors.

    Attributes:
        name: the value of ``convert --to`` for it.
        title: its name in messages.
        read: its names -> timm's, the norms after the stages of a dense Twins as ``norm_list``. Foreign names stay.
        write: timm's names -> its own, and the tensors that it has no place for.
        timm_modules: timm files whose models have such checkpoints; empty for all.
        window_padding: ``TwinsAdapter``'s name for the padding of windows in the project's Twins-SVT.
    """

    name: str
    title: str
    read: Callable[[Mapping[str, Tensor]], StateDict]
    write: Callable[[Mapping[str, Tensor]], tuple[StateDict, StateDict]]
    timm_modules: tuple[str, ...] = ()
    window_padding: str = "zero"

    def serves(self, timm_modules: tuple[str, ...]) -> bool:
        """Return whether models of these timm files have checkpoints in this format."""
        return not self.timm_modules or not set(self.timm_modules).isdisjoint(timm_modules)


_TWINS_NAMES = re.compile(
    r"(patch_embeds\.\d+\.(proj|norm)|blocks\.\d+\.\d+\.(norm1|norm2|attn\.\w+|mlp\.\w+)|pos_block\.\d+\.proj\.0|"
    r"norm_list\.\d+)\.(weight|bias)"
)


def is_twins(state: Mapping[str, Tensor]) -> bool:
    """Return whether timm's names in a state dict include some of Twins'."""
    return any(_TWINS_NAMES.fullmatch(key) for key in state)


def _leave_out(state: Mapping[str, Tensor], *prefixes: str) -> tuple[StateDict, StateDict]:
    """Split a state dict into the tensors whose names do not begin with a prefix, and those whose names do."""
    left = {key: tensor for key, tensor in state.items() if key.startswith(prefixes)}
    return {key: tensor for key, tensor in state.items() if key not in left}, left


def _read_own(state: Mapping[str, Tensor]) -> StateDict:
    return {re.sub(r"^stage_norms\.", "norm_list.", key.removeprefix(TRUNK)): tensor for key, tensor in state.items()}


def _write_own(state: Mapping[str, Tensor]) -> tuple[StateDict, StateDict]:
    def rename(key: str) -> str:
        own = re.sub(r"^norm_list\.", "stage_norms.", key)
        return own if own.startswith(("stage_norms.", PYRAMID)) else TRUNK + key

    return {rename(key): tensor for key, tensor in state.items()}, {}


#: timm's name of a module -> OpenMMLab's, ``#`` for a number, ``BLOCKS`` and ``NORMS`` for what the projects differ in.
_OPENMMLAB_NAMES = (
    ("patch_embeds.#.proj", "patch_embeds.#.projection"),
    ("patch_embeds.#.norm", "patch_embeds.#.norm"),
    ("pos_block.#.proj.0", "position_encodings.#.proj"),
    ("blocks.#.#.norm1", "BLOCKS.#.#.norm1"),
    ("blocks.#.#.norm2", "BLOCKS.#.#.norm2"),
    ("blocks.#.#.mlp.fc1", "BLOCKS.#.#.ffn.layers.0.0"),
    ("blocks.#.#.mlp.fc2", "BLOCKS.#.#.ffn.layers.1"),
    ("blocks.#.#.attn.qkv", "BLOCKS.#.#.attn.qkv"),
    ("blocks.#.#.attn.sr", "BLOCKS.#.#.attn.sr"),
    ("blocks.#.#.attn.norm", "BLOCKS.#.#.attn.norm"),
    ("norm_list.#", "NORMS"),
)
_UNFUSED_NAMES = tuple((f"blocks.#.#.attn.{part}", f"BLOCKS.#.#.attn.{part}") for part in ("q", "kv", "proj"))


@dataclass(frozen=True)
class _Dialect:
    """The names that an OpenMMLab project gives to the modules of Twins.

    Attributes:
        blocks: the list of stages.
        norms: a norm after a stage.
        fused: global attention is an ``nn.MultiheadAttention``.
    """

    blocks: str
    norms: str
    fused: bool

    @property
    def names(self) -> list[tuple[str, str]]:
        """Pairs of module names, timm's first."""
        pairs = _OPENMMLAB_NAMES if self.fused else _OPENMMLAB_NAMES + _UNFUSED_NAMES
        return [(timms, theirs.replace("BLOCKS", self.blocks).replace("NORMS", self.norms)) for timms, theirs in pairs]

    def write(self, state: Mapping[str, Tensor]) -> tuple[StateDict, StateDict]:
        """Rename from timm's names; the second state dict holds what the project's backbone has no place for."""
        renamed: StateDict = {}
        left: StateDict = {}
        last, dense = _last_stage(state), "norm_list.0.weight" in state
        for key, tensor in state.items():
            attention = re.fullmatch(r"blocks\.(\d+\.\d+)\.attn\.(q|kv|proj)\.(weight|bias)", key)
            if name := _rename(key, self.names):
                renamed[name] = tensor
            elif attention and self.fused:
                block, part, kind = attention.groups()
                prefix = f"{self.blocks}.{block}.attn"
                if part == "proj":
                    local = f"blocks.{block}.attn.qkv.weight" in state
                    renamed[f"{prefix}.proj.{kind}" if local else f"{prefix}.attn.out_proj.{kind}"] = tensor
                else:
                    parts = [state[f"blocks.{block}.attn.{name}.{kind}"] for name in ("q", "kv")]
                    renamed[f"{prefix}.attn.in_proj_{kind}"] = torch.cat(parts)
            elif key.startswith("norm.") and not self.fused and not dense:
                renamed[f"norm_after_stage{last}.{key.removeprefix('norm.')}"] = tensor
            else:
                left[key] = tensor
        return renamed, left

    def read(self, state: Mapping[str, Tensor]) -> StateDict:
        """Rename to timm's names; a name that is not of the backbone stays as it is.

        Attention that was built without biases (``qkv_bias=False``) gets biases of zero, which do the same: timm's
        always has them.
        """
        renamed: StateDict = {}
        last, dense = _last_stage(state), "norm_after_stage0.weight" in state
        backwards = [(theirs, timms) for timms, theirs in self.names]
        fused_names = rf"{self.blocks}\.(\d+\.\d+)\.attn\.(attn\.in_proj_|attn\.out_proj\.|proj\.)(weight|bias)"
        for key, tensor in state.items():
            attention = re.fullmatch(fused_names, key)
            if self.fused and attention:
                block, part, kind = attention.groups()
                prefix = f"blocks.{block}.attn"
                if part == "attn.in_proj_":
                    sizes = (tensor.shape[0] // 3, 2 * (tensor.shape[0] // 3))
                    renamed[f"{prefix}.q.{kind}"], renamed[f"{prefix}.kv.{kind}"] = tensor.split(sizes)
                else:
                    renamed[f"{prefix}.proj.{kind}"] = tensor
            elif key.startswith(f"norm_after_stage{last}.") and not self.fused and not dense:
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
    """Rename a key by the first pair whose left side is the name of its module; return None where there is none."""
    module, _, kind = key.rpartition(".")
    for left, right in pairs:
        if match := re.fullmatch(left.replace(".", r"\.").replace("#", r"(\d+)"), module):
            for number in match.groups():
                right = right.replace("#", number, 1)
            return f"{right}.{kind}"
    return None


_MMSEG_DIALECT = _Dialect("layers", "norm_list.#", fused=True)
_MMPRETRAIN_DIALECT = _Dialect("stages", "norm_after_stage#", fused=False)

ADAPTERS = Format("adapters", "this package's own", _read_own, _write_own)
TIMM = Format("timm", "timm's", dict, lambda state: _leave_out(state, "norm_list.", PYRAMID))
ORIGINAL = Format("original", "the original Twins code's", dict, lambda state: _leave_out(state, PYRAMID), ("twins",))
MMSEG = Format("mmseg", "mmseg's", _MMSEG_DIALECT.read, _MMSEG_DIALECT.write, ("twins",), "mmseg")
MMPRETRAIN = Format(
    "mmpretrain", "mmpretrain's", _MMPRETRAIN_DIALECT.read, _MMPRETRAIN_DIALECT.write, ("twins",), "mmseg"
)

FORMATS: dict[str, Format] = {format.name: format for format in (ADAPTERS, TIMM, ORIGINAL, MMSEG, MMPRETRAIN)}
