"""Converting a whole checkpoint from one key format to another, without a model at hand."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adapters.weights import find_backbone as search
from adapters.weights import norm_eps
from adapters.weights.formats import ADAPTERS, FORMATS, LEFT_OUT, ORIGINAL, TIMM, Format, StateDict

_TWINS = re.compile(
    r"(patch_embeds\.\d+\.(proj|norm)|blocks\.\d+\.\d+\.(norm1|norm2|attn\.\w+|mlp\.\w+)|pos_block\.\d+\.proj\.0|"
    r"norm_list\.\d+)\.(weight|bias)"
)


@dataclass(frozen=True)
class Conversion:
    """A converted checkpoint.

    Attributes:
        state: the tensors under the target's names.
        left_out: those that the target's backbone has no place for, under timm's names.
        source: the format that was found, and ``prefix``, what came before its names.
        rows: for each tensor its new name, shape, and the old names that it is made of.
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
        prefix: below which names the backbone lies, if there are several.
        path: for messages.

    Raises:
        ValueError: no backbone or more than one is found, or the target cannot express it.
    """
    target = FORMATS[target_name]
    tensors = search.flatten(contents)
    source, place = _find(contents, prefix, path)
    found = search.below(tensors, place)
    eps = found.pop(norm_eps.KEY, None)
    source_eps = source.norm_eps if eps is None else float(eps)
    set_aside = contents.get(LEFT_OUT) or {}
    named, state, left_out = _rewrite(found, set_aside, source, target)
    is_twins = any(_TWINS.fullmatch(key) for key in named)
    if target.twins_only and not is_twins:
        raise ValueError(f"{path} holds no Twins, and {target.title} names are for Twins; use --to timm or adapters.")
    if target is TIMM and any(key.startswith("norm_list.") for key in named):
        raise ValueError(
            f"{path} holds a dense Twins with a norm after each stage, which timm's model has not: without them it "
            "computes something else. Use --to original, mmseg, mmpretrain or adapters."
        )
    notes = []
    if is_twins and source_eps != target.norm_eps:
        if target is ADAPTERS:
            state[norm_eps.KEY] = torch.tensor(source_eps, dtype=torch.float64)
            notes.append(f"the norms of the blocks have eps {source_eps:g}, which the new file tells as {norm_eps.KEY}")
        else:
            notes.append(
                f"the norms of the blocks have eps {source_eps:g}, but {target.norm_eps:g} in {target.title} model: "
                "outputs differ by some 5e-6 of their size"
            )
    if outside := len(tensors) - len(search.below(tensors, place)) - len(set_aside):
        notes.append(f"{outside} tensors outside {place!r} were left behind")
    rows = _trace(found, set_aside, source, target)
    return Conversion(state, left_out, source, place, rows, notes)


def _find(contents: Mapping[str, Any], prefix: str | None, path: str) -> tuple[Format, str]:
    """The format and the prefix of the backbone in a checkpoint."""
    tensors = search.flatten(contents)
    probe = torch.empty(3)
    knows = {
        form.name: lambda key, form=form: any(_TWINS.fullmatch(name) for name in form.read({key: probe}))
        for form in (TIMM, *(form for form in FORMATS.values() if form not in (TIMM, ORIGINAL)))
    }
    places = [place for place in search.candidates(contents, knows, prefix) if len(place.keys) > 8]
    if places:
        place, _ = search.choose(places, tensors, path)
        dense = any(key.startswith(f"{place.prefix}norm_list.") for key in tensors)
        return (ORIGINAL if place.form == TIMM.name and dense else FORMATS[place.form]), place.prefix
    owns = sorted({match.group(1) for key in tensors if (match := re.match(r"(|.*?\.)trunk\.", key))})
    owns = [own for own in owns if prefix is None or search.is_below(own, prefix, contents)]
    if len(owns) > 1:
        raise ValueError(
            f"{path} holds {len(owns)} backbones, below {', '.join(map(repr, owns))}; name one with --prefix."
        )
    if owns:
        return ADAPTERS, owns[0]
    wrappers = search.wrapper_prefixes(contents, prefix)
    large = [name for name in wrappers if 2 * len(search.below(tensors, name)) >= len(tensors)]
    large = [name for name in wrappers if name.endswith("backbone.")] or large
    if not tensors or not large:
        raise ValueError(f"{path} holds no backbone that can be told from the rest; name where it lies with --prefix.")
    return TIMM, large[-1]


def _rewrite(
    found: Mapping[str, Tensor], set_aside: Mapping[str, Tensor], source: Format, target: Format
) -> tuple[StateDict, StateDict, StateDict]:
    """The backbone's tensors under timm's names, under the target's, and those that the target has no place for."""
    named = {**source.read(found), **set_aside}
    pyramid = {key: named.pop(key) for key in list(named) if key.startswith("pyramid.")}
    state, left_out = target.write(named)
    (state if target is ADAPTERS else left_out).update(pyramid)
    return named, state, left_out


def _trace(
    found: StateDict, set_aside: Mapping[str, Tensor], source: Format, target: Format
) -> list[tuple[str, str, str]]:
    """Which old names each new one is made of, by sending the names' numbers the same way as the tensors."""
    olds = {**found, **set_aside}
    names = list(olds)
    numbers = {key: torch.full((3,), index + 1) for index, key in enumerate(names)}
    _, state, left_out = _rewrite(
        {key: numbers[key] for key in found}, {key: numbers[key] for key in set_aside}, source, target
    )
    rows = []
    for key, origin in {**state, **left_out}.items():
        parts = [names[index - 1] for index in origin.unique().tolist() if index]
        new = key if key in state else "(left out)"
        shapes = " + ".join(str(tuple(olds[part].shape)) for part in parts)
        rows.append((", ".join(parts) or "(zeros)", new, shapes))
    return rows
