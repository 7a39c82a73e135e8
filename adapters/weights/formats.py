"""The key formats that a checkpoint may have, and the way from each to timm's names and back."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from adapters.weights.twins_names import MMPRETRAIN_DIALECT, MMSEG, Dialect, from_openmmlab, to_openmmlab

StateDict = dict[str, Tensor]

#: Where a converted checkpoint keeps the tensors that its format has no place for, under timm's names.
LEFT_OUT = "left_out"


@dataclass(frozen=True)
class Format:
    """One project's names of a backbone's tensors.

    Attributes:
        name: as ``tools/convert_checkpoint.py --to`` takes it.
        title: how a message calls it.
        read: its names -> timm's, the norms after the stages of a dense Twins as ``norm_list``. Foreign names stay.
        write: timm's names -> its own, and what it has no place for.
        twins_only: no other family has such checkpoints.
        norm_eps: epsilon of the norms in its Twins blocks and after their stages.
        window_padding: how its Twins-SVT pads windows, as ``TwinsAdapter`` calls it.
    """

    name: str
    title: str
    read: Callable[[Mapping[str, Tensor]], StateDict]
    write: Callable[[Mapping[str, Tensor]], tuple[StateDict, StateDict]]
    twins_only: bool = False
    norm_eps: float = 1e-6
    window_padding: str = "zero"


def _unchanged(state: Mapping[str, Tensor]) -> StateDict:
    return dict(state)


def _without_norm_list(state: Mapping[str, Tensor]) -> tuple[StateDict, StateDict]:
    left = {key: tensor for key, tensor in state.items() if key.startswith("norm_list.")}
    return {key: tensor for key, tensor in state.items() if key not in left}, left


def _read_own(state: Mapping[str, Tensor]) -> StateDict:
    return {re.sub("^stage_norms", "norm_list", key.removeprefix("trunk.")): tensor for key, tensor in state.items()}


def _write_own(state: Mapping[str, Tensor]) -> tuple[StateDict, StateDict]:
    return {
        re.sub("^norm_list", "stage_norms", key) if key.startswith("norm_list") else f"trunk.{key}": tensor
        for key, tensor in state.items()
    }, {}


def _openmmlab(name: str, title: str, dialect: Dialect) -> Format:
    # mmcv's build_norm_layer makes every LayerNorm with 1e-5 unless a config says otherwise.
    return Format(
        name,
        title,
        lambda state: from_openmmlab(state, dialect),
        lambda state: to_openmmlab(state, dialect),
        twins_only=True,
        norm_eps=1e-5,
        window_padding="mmseg",
    )


ADAPTERS = Format("adapters", "this package's own", _read_own, _write_own)
TIMM = Format("timm", "timm's", _unchanged, _without_norm_list)
ORIGINAL = Format("original", "the original Twins code's", _unchanged, lambda state: (dict(state), {}), twins_only=True)
MMSEG_FORMAT = _openmmlab("mmseg", "mmseg's", MMSEG)
MMPRETRAIN_FORMAT = _openmmlab("mmpretrain", "mmpretrain's", MMPRETRAIN_DIALECT)

FORMATS: dict[str, Format] = {form.name: form for form in (ADAPTERS, TIMM, ORIGINAL, MMSEG_FORMAT, MMPRETRAIN_FORMAT)}
