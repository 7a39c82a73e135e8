"""Converting a checkpoint from one key format to another, without a model at hand."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adapters.weights.factors import settle_checkpoint
from adapters.weights.file import StateDict
from adapters.weights.find_backbone import Checkpoint, choose, find_candidates, wrapper_prefixes
from adapters.weights.formats import (
    ADAPTERS,
    FORMATS,
    LEFT_OUT,
    OBSOLETE,
    ORIGINAL,
    PYRAMID,
    TIMM,
    TRUNK,
    Format,
    is_twins,
)
from adapters.weights.report import some
from adapters.weights.timm_names import foreign_names

#: Names that a place must have to be taken for a Twins: a few of them also occur in other models.
_FEW = 8

#: Formats that are told by their names; timm's and the original's are the same.
_SEARCHED = (TIMM, *(known for known in FORMATS.values() if known not in (TIMM, ORIGINAL)))


#: Wrappers that some programs leave within names.
_INNER_WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module)\.")


@dataclass(frozen=True)
class Conversion:
    """A converted checkpoint.

    Attributes:
        state: the tensors under the target's names.
        left_out: those that the target's backbone has no place for, under timm's names.
        found_as: the format that was found, and all that came before its names.
        rows: the old names that each tensor is made of, its new name, and the old shapes.
        notes: what else the caller should know.
    """

    state: StateDict
    left_out: StateDict
    found_as: str
    rows: list[tuple[str, str, str]]
    notes: list[str]


def convert(
    contents: Mapping[str, Any], target_name: str, prefix: str | None, path: str, *, merge: bool = False
) -> Conversion:
    """Find the backbone in a checkpoint and give its tensors the names of another project.

    Args:
        contents: what the file holds.
        target_name: one of :data:`FORMATS`.
        prefix: all that comes before the backbone's names, with or without the last dot and the container; None
            searches for it.
        path: for messages.
        merge: add low-rank factors to the weights that they adapt.

    Raises:
        ValueError: no backbone or more than one is found, its names are none of timm's, or the target cannot express
            it.
    """
    target = FORMATS[target_name]
    checkpoint = Checkpoint.from_contents(contents, path)
    told = ""
    if merge:
        checkpoint, told = settle_checkpoint(checkpoint, merged=True)
        if not told:
            raise ValueError(f"{path} holds no low-rank factors that this package has saved: leave out --merge.")
    source, place = _find(checkpoint) if prefix is None else _find_at(checkpoint, _exact_place(checkpoint, prefix))
    found = checkpoint.below(place)
    set_aside = checkpoint.below(f"{LEFT_OUT}.")
    outside = [name for name in checkpoint.tensors if not name.startswith((place, f"{LEFT_OUT}."))]
    found = {_INNER_WRAPPERS.sub("", key): tensor for key, tensor in found.items() if key not in OBSOLETE}
    if not place:
        found = {key: tensor for key, tensor in found.items() if not key.startswith(f"{LEFT_OUT}.")}
    named = {**source.read(found), **set_aside}
    if target.timm_modules and not is_twins(named):
        raise ValueError(f"{path} holds no Twins, and {target.title} names are for Twins; use --to timm or adapters.")
    if target is TIMM and any(key.startswith("norm_list.") for key in named):
        raise ValueError(
            f"{path} holds a dense Twins with a norm after each stage, which timm's model has not: without them it "
            "computes something else. Use --to original, mmseg, mmpretrain or adapters."
        )
    _refuse_foreign(named, path, place)
    state, left_out = target.write(named)
    notes = [told] if told else []
    if outside:
        parts = list(dict.fromkeys(".".join(name.split(".")[:2]) for name in outside))
        notes += [f"{len(outside)} tensors outside {place!r} were left behind", f"they are of {some(parts)}"]
    found_as = f"{source.title} names" + (f" below {place!r}" if place else "")
    return Conversion(state, left_out, found_as, _trace(found, set_aside, source, target), notes)


def from_timm(state: StateDict, target_name: str, found_as: str) -> Conversion:
    """Give the tensors of a timm model, into which a checkpoint was loaded, the names of another project.

    Args:
        state: under timm's names.
        target_name: one of :data:`FORMATS`.
        found_as: the report of the load.

    Raises:
        ValueError: the target is for Twins, and the model is none.
    """
    target = FORMATS[target_name]
    if target.timm_modules and not is_twins(state):
        raise ValueError(f"the model is no Twins, and {target.title} names are for Twins; use --to timm or adapters.")
    new, left_out = target.write(state)
    return Conversion(new, left_out, found_as, _trace(state, {}, TIMM, target), [])


def _refuse_foreign(named: StateDict, path: str, place: str) -> None:
    """Refuse names that no model of timm's has: of another project, of several models, of a whole detector."""
    own = [key for key in named if not key.startswith(("norm_list.", PYRAMID))]
    if foreign := foreign_names(own):
        below = f" below {place!r}" if place else ""
        raise ValueError(
            f"{path}: {len(foreign)} of the {len(own)} names{below} are none of timm's, such as {some(foreign, 3)}. "
            "Say with --prefix where the backbone lies, or with --model which of timm's models it is, so that names of "
            "other projects are read and everything else is left out."
        )


def _exact_place(checkpoint: Checkpoint, prefix: str) -> str:
    """Return the full prefix that a user means, whose container and last dot may be left out."""
    wanted = prefix if not prefix or prefix.endswith(".") else f"{prefix}."
    containers = ("", *(f"{container}." for container in checkpoint.containers if wanted))
    places = {before + wanted for before in containers}
    there = [place for place in sorted(places) if any(key.startswith(place) for key in checkpoint.tensors)]
    if not there:
        parts = dict.fromkeys(".".join(key.split(".")[:2]) for key in checkpoint.tensors)
        raise ValueError(f"{checkpoint.name} holds nothing below --prefix {prefix}; there is {some(list(parts), 6)}.")
    ranks = [checkpoint.rank_of(place) for place in there]
    best = [place for place, rank in zip(there, ranks, strict=True) if rank == min(ranks)]
    if len(best) > 1:
        raise ValueError(f"{checkpoint.name} holds {', '.join(map(repr, best))}; give one of them as --prefix.")
    return best[0]


def _find_at(checkpoint: Checkpoint, place: str) -> tuple[Format, str]:
    """Return the format of the names below a prefix, and the prefix."""
    keys = checkpoint.below(place)
    counts = {
        known: sum(is_twins(known.read({key: probe})) for key in keys)
        for known, probe in ((known, torch.empty(3)) for known in _SEARCHED)
    }
    best = max(counts, key=lambda known: counts[known])
    if counts[best] > _FEW:
        return (ORIGINAL if best is TIMM and any(key.startswith("norm_list.") for key in keys) else best), place
    return (ADAPTERS if any(key.startswith(TRUNK) for key in keys) else TIMM), place


def _find(checkpoint: Checkpoint) -> tuple[Format, str]:
    """Return the format and the prefix of the backbone in a checkpoint."""
    probe = torch.empty(3)
    knows = {known.name: lambda key, known=known: is_twins(known.read({key: probe})) for known in _SEARCHED}
    candidates = [place for place in find_candidates(checkpoint, knows, None) if len(place.keys) > _FEW]
    if candidates:
        place, _ = choose(candidates, checkpoint)
        dense = any(key.startswith(f"{place.prefix}norm_list.") for key in checkpoint.tensors)
        is_original = place.format_name == TIMM.name and dense
        return (ORIGINAL if is_original else FORMATS[place.format_name]), place.prefix
    owns = sorted({match.group(1) for key in checkpoint.tensors if (match := re.match(r"(|.*?\.)trunk\.", key))})
    if len(owns) > 1:
        raise ValueError(
            f"{checkpoint.name} holds {len(owns)} backbones, below {', '.join(map(repr, owns))}; name one with "
            "--prefix."
        )
    if owns:
        return ADAPTERS, owns[0]
    wrappers = wrapper_prefixes(checkpoint, None)
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
