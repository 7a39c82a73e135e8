"""Converting a checkpoint from one key format to another, without a model at hand."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adapters.weights.file import StateDict
from adapters.weights.find_backbone import Checkpoint, choose, find_candidates, wrapper_prefixes
from adapters.weights.formats import ADAPTERS, FORMATS, LEFT_OUT, OBSOLETE, ORIGINAL, TIMM, Format, is_twins

#: Names that a place must have to be taken for a Twins: a few of them also occur in other models.
_FEW = 8


@dataclass(frozen=True)
class Conversion:
    """A converted checkpoint.

    Attributes:
        state: the tensors under the target's names.
        left_out: those that the target's backbone has no place for, under timm's names.
        source: the format that was found.
        prefix: all that came before its names.
        rows: the old names that each tensor is made of, its new name, and the old shapes.
        notes: what else the caller should know.
    """

    state: StateDict
    left_out: StateDict
    source: Format
    prefix: str
    rows: list[tuple[str, str, str]]
    notes: list[str]


def convert(contents: Mapping[str, Any], target_name: str, prefix: str | None, path: str) -> Conversion:
    """Find the backbone in a checkpoint and give its tensors the names of another project.

    Args:
        contents: what the file holds.
        target_name: one of :data:`FORMATS`.
        prefix: the beginning of the names below which the backbone lies, if there are several.
        path: for messages.

    Raises:
        ValueError: no backbone or more than one is found, or the target cannot express it.
    """
    target = FORMATS[target_name]
    checkpoint = Checkpoint.from_contents(contents, path)
    source, place = _find(checkpoint, prefix)
    found = checkpoint.below(place)
    set_aside = checkpoint.below(f"{LEFT_OUT}.")
    outside = len(checkpoint.tensors) - len(found) - len(set_aside)
    found = {key: tensor for key, tensor in found.items() if key not in OBSOLETE}
    named = {**source.read(found), **set_aside}
    if target.timm_modules and not is_twins(named):
        raise ValueError(f"{path} holds no Twins, and {target.title} names are for Twins; use --to timm or adapters.")
    if target is TIMM and any(key.startswith("norm_list.") for key in named):
        raise ValueError(
            f"{path} holds a dense Twins with a norm after each stage, which timm's model has not: without them it "
            "computes something else. Use --to original, mmseg, mmpretrain or adapters."
        )
    state, left_out = target.write(named)
    notes = [f"{outside} tensors outside {place!r} were left behind"] if outside else []
    return Conversion(state, left_out, source, place, _trace(found, set_aside, source, target), notes)


def _find(checkpoint: Checkpoint, prefix: str | None) -> tuple[Format, str]:
    """Return the format and the prefix of the backbone in a checkpoint."""
    probe = torch.empty(3)
    # timm's names and the original's are the same.
    searched = [TIMM, *(known for known in FORMATS.values() if known not in (TIMM, ORIGINAL))]
    knows = {known.name: lambda key, known=known: is_twins(known.read({key: probe})) for known in searched}
    candidates = [place for place in find_candidates(checkpoint, knows, prefix) if len(place.keys) > _FEW]
    if candidates:
        place, _ = choose(candidates, checkpoint)
        dense = any(key.startswith(f"{place.prefix}norm_list.") for key in checkpoint.tensors)
        is_original = place.format_name == TIMM.name and dense
        return (ORIGINAL if is_original else FORMATS[place.format_name]), place.prefix
    owns = sorted({match.group(1) for key in checkpoint.tensors if (match := re.match(r"(|.*?\.)trunk\.", key))})
    owns = [own for own in owns if prefix is None or checkpoint.is_below(own, prefix)]
    if len(owns) > 1:
        raise ValueError(
            f"{checkpoint.name} holds {len(owns)} backbones, below {', '.join(map(repr, owns))}; name one with "
            "--prefix."
        )
    if owns:
        return ADAPTERS, owns[0]
    wrappers = wrapper_prefixes(checkpoint, prefix)
    likely = [place for place in wrappers if place.endswith("backbone.")] or [
        place for place in wrappers if 2 * len(checkpoint.below(place)) >= len(checkpoint.tensors)
    ]
    if not checkpoint.tensors or not likely:
        raise ValueError(
            f"{checkpoint.name} holds no backbone that can be told from the rest; name where it lies with --prefix."
        )
    return TIMM, likely[-1]


def _trace(
    found: StateDict, set_aside: Mapping[str, Tensor], source: Format, target: Format
) -> list[tuple[str, str, str]]:
    """Find the old names that each new one is made of, by renaming the names' numbers the same way as the tensors."""
    olds = {**found, **set_aside}
    names = list(olds)
    numbers = {key: torch.full((3,), index + 1) for index, key in enumerate(names)}
    named = {**source.read({key: numbers[key] for key in found}), **{key: numbers[key] for key in set_aside}}
    state, left_out = target.write(named)
    rows = []
    for key, origin in {**state, **left_out}.items():
        parts = [names[index - 1] for index in origin.unique().tolist() if index]
        new = key if key in state else "(left out)"
        shapes = " + ".join(str(tuple(olds[part].shape)) for part in parts)
        rows.append((", ".join(parts) or "(zeros)", new, shapes))
    return rows
