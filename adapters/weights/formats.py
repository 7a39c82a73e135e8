"""The key formats that a checkpoint may have: from each project's names to timm's, and back.

All but Twins have timm's names or this package's. OpenMMLab renamed the modules of Twins in ``PCPVT`` and ``SVT`` of
mmseg and of mmpretrain. mmseg also runs global attention through ``nn.MultiheadAttention``, which keeps queries, keys
and values in one tensor where the original has ``q`` and ``kv``. Each has its own name for the norms after the stages
of a dense model, ``norm_list`` in the original; in a classifier of mmpretrain's, the norm after the last stage is the
final norm of the others. Both projects build the norms of the blocks with an epsilon of 1e-5 where timm and the
original code have 1e-6, so that outputs differ by some 5e-6 of their size; no format carries the epsilon.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch

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
        note: a line for the report about a difference that names do not show.
        output_norms: a pattern of the names of norms that the project applies to its maps, and timm's model has not.
    """

    name: str
    title: str
    read: Callable[[StateDict], StateDict]
    write: Callable[[StateDict], tuple[StateDict, StateDict]]
    timm_modules: tuple[str, ...] = ()
    window_padding: str = "zero"
    note: str = ""
    output_norms: str = ""

    def serves(self, timm_modules: tuple[str, ...]) -> bool:
        """Return whether models of these timm files have checkpoints in this format."""
        return not self.timm_modules or not set(self.timm_modules).isdisjoint(timm_modules)


_TWINS_NAMES = re.compile(
    r"(patch_embeds\.\d+\.(proj|norm)|pos_block\.\d+\.proj\.0|norm_list\.\d+|"
    r"blocks\.\d+\.\d+\.(norm1|norm2|attn\.(qkv|q|kv|proj|sr|norm)|mlp\.(fc1|fc2)))\.(weight|bias)"
)


def is_twins(state: StateDict) -> bool:
    """Return whether timm's names in a state dict include some of Twins'."""
    return any(_TWINS_NAMES.fullmatch(key) for key in state)


def _leave_out(state: StateDict, *prefixes: str) -> tuple[StateDict, StateDict]:
    """Split a state dict into the tensors whose names do not begin with a prefix, and those whose names do."""
    left = {key: tensor for key, tensor in state.items() if key.startswith(prefixes)}
    return {key: tensor for key, tensor in state.items() if key not in left}, left


def _read_own(state: StateDict) -> StateDict:
    return {re.sub(r"^stage_norms\.", "norm_list.", key.removeprefix(TRUNK)): tensor for key, tensor in state.items()}


def _write_own(state: StateDict) -> tuple[StateDict, StateDict]:
    def rename(key: str) -> str:
        own = re.sub(r"^norm_list\.", "stage_norms.", key)
        return own if own.startswith(("stage_norms.", PYRAMID)) else TRUNK + key

    return {rename(key): tensor for key, tensor in state.items()}, {}


@dataclass(frozen=True)
class _OpenMMLabTwins:
    """The names that an OpenMMLab project gives to the parameters of Twins.

    Attributes:
        blocks: the list of stages.
        norms: the beginning of the name of a norm after a stage.
        fused: global attention is an ``nn.MultiheadAttention``.
    """

    blocks: str
    norms: str
    fused: bool

    @property
    def renames(self) -> list[tuple[str, str]]:
        """Parts of names, timm's first, ``#`` for a number."""
        return [
            ("patch_embeds.#.proj.", "patch_embeds.#.projection."),
            ("pos_block.#.proj.0.", "position_encodings.#.proj."),
            ("norm_list.#.", f"{self.norms}#."),
            ("blocks.#.#.mlp.fc1.", f"{self.blocks}.#.#.ffn.layers.0.0."),
            ("blocks.#.#.mlp.fc2.", f"{self.blocks}.#.#.ffn.layers.1."),
            ("blocks.#.#.", f"{self.blocks}.#.#."),
        ]

    def write(self, state: StateDict) -> tuple[StateDict, StateDict]:
        """Rename from timm's names; the second state dict holds what the project's backbone has no place for."""
        renamed: StateDict = {}
        left: StateDict = {}
        last, dense = _last_stage(state), "norm_list.0.weight" in state
        for key, tensor in state.items():
            attention = re.fullmatch(r"blocks\.(\d+\.\d+)\.attn\.(q|kv|proj)\.(weight|bias)", key)
            if key.startswith("norm.") and not self.fused and not dense:
                renamed[f"{self.norms}{last}.{key.removeprefix('norm.')}"] = tensor
            elif not _TWINS_NAMES.fullmatch(key):
                left[key] = tensor
            elif self.fused and attention and f"blocks.{attention[1]}.attn.q.weight" in state:
                prefix = f"{self.blocks}.{attention[1]}.attn.attn"
                if attention[2] == "proj":
                    renamed[f"{prefix}.out_proj.{attention[3]}"] = tensor
                else:
                    parts = [state[f"blocks.{attention[1]}.attn.{part}.{attention[3]}"] for part in ("q", "kv")]
                    renamed[f"{prefix}.in_proj_{attention[3]}"] = torch.cat(parts)
            else:
                renamed[_rename(key, self.renames)] = tensor
        return renamed, left

    def read(self, state: StateDict) -> StateDict:
        """Rename to timm's names; a name that is not of the backbone stays as it is.

        Attention that was built without biases (``qkv_bias=False``) gets biases of zero, which do the same: timm's
        always has them.
        """
        renamed: StateDict = {}
        last, dense = _last_stage(state), "norm_after_stage0.weight" in state
        backwards = [(theirs, timms) for timms, theirs in self.renames]
        fused_names = rf"{self.blocks}\.(\d+\.\d+)\.attn\.attn\.(in_proj_|out_proj\.)(weight|bias)"
        for key, tensor in state.items():
            attention = re.fullmatch(fused_names, key) if self.fused else None
            if attention and attention[2] == "in_proj_":
                prefix, channels = f"blocks.{attention[1]}.attn", tensor.shape[0] // 3
                query, key_value = tensor.split((channels, 2 * channels))
                renamed[f"{prefix}.q.{attention[3]}"], renamed[f"{prefix}.kv.{attention[3]}"] = query, key_value
            elif attention:
                renamed[f"blocks.{attention[1]}.attn.proj.{attention[3]}"] = tensor
            elif key.startswith(f"norm_after_stage{last}.") and not self.fused and not dense:
                renamed[f"norm.{key.split('.', 1)[1]}"] = tensor
            else:
                timms = _rename(key, backwards)
                renamed[timms if _TWINS_NAMES.fullmatch(timms) else key] = tensor
        for key in list(renamed):
            bias = key.removesuffix("weight") + "bias"
            if re.fullmatch(r"blocks\.\d+\.\d+\.attn\.(q|kv|qkv|proj)\.weight", key) and bias not in renamed:
                renamed[bias] = renamed[key].new_zeros(len(renamed[key]))
        return renamed


def _last_stage(state: StateDict) -> int:
    return max((int(key.split(".")[1]) for key in state if re.match(r"patch_embeds\.\d+\.", key)), default=0)


def _rename(key: str, pairs: list[tuple[str, str]]) -> str:
    """Rename a key by the first pair whose left side begins it; a key that none begins stays as it is."""
    for left, right in pairs:
        if match := re.match(re.escape(left).replace(r"\#", r"(\d+)"), key):
            for number in match.groups():
                right = right.replace("#", number, 1)
            return right + key[match.end() :]
    return key


_MMSEG_TWINS = _OpenMMLabTwins("layers", "norm_list.", fused=True)
_MMPRETRAIN_TWINS = _OpenMMLabTwins("stages", "norm_after_stage", fused=False)

ADAPTERS = Format("adapters", "this package's own", _read_own, _write_own)
TIMM = Format("timm", "timm's", dict, lambda state: _leave_out(state, "norm_list.", PYRAMID))
ORIGINAL = Format("original", "the original Twins code's", dict, lambda state: _leave_out(state, PYRAMID), ("twins",))
MMSEG = Format("mmseg", "mmseg's", _MMSEG_TWINS.read, _MMSEG_TWINS.write, ("twins",), "mmseg")
MMPRETRAIN = Format("mmpretrain", "mmpretrain's", _MMPRETRAIN_TWINS.read, _MMPRETRAIN_TWINS.write, ("twins",), "mmseg")

FORMATS: dict[str, Format] = {format.name: format for format in (ADAPTERS, TIMM, ORIGINAL, MMSEG, MMPRETRAIN)}
