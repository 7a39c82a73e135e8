"""The ways to understand a checkpoint: which backbone in it, in which key format, with or without timm's filter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from adapters.weights import find_backbone as search
from adapters.weights import norm_eps
from adapters.weights.file import StateDict
from adapters.weights.formats import ADAPTERS, FORMATS, LEFT_OUT, TIMM, Format
from adapters.weights.report import Report, some
from adapters.weights.source import Source, contents
from adapters.weights.timm_pretrained import Blueprint, draw, pretrained_state

if TYPE_CHECKING:
    from adapters.base import BackboneAdapter


#: How a report calls a reading that timm's filter has gone over.
FILTER = ", through timm's filter"


@dataclass(frozen=True)
class Reading:
    """One way to understand a checkpoint.

    Attributes:
        state: its tensors under the adapter's own names.
        blueprint: timm's knowledge of such checkpoints.
        form: the key format that it has.
        norm_eps: epsilon of the norms in Twins blocks, where it is not timm's.
        img_size: ``(H, W)`` for which its position embeddings are, if they are still to be resampled from there.
        report: what is known so far.
    """

    state: StateDict
    blueprint: Blueprint
    form: Format
    norm_eps: float | None
    img_size: tuple[int, int] | None
    report: Report


def readings(adapter: BackboneAdapter, source: Source) -> Iterator[Reading]:
    """Ways to understand a source, the most literal first.

    Raises:
        ValueError: it cannot be found or read, or none or more than one backbone in it fits.
    """
    blueprint = draw(adapter.model_name, adapter.in_channels, adapter.trunk_arguments)
    if source.name == "timm":
        yield _timms_own(adapter, blueprint)
        return
    inside = contents(source.name)
    tensors = search.flatten(inside)
    if not tensors:
        raise ValueError(f"{source.name} holds no tensors.")
    names = _known_names(adapter)
    knows = {form: known.__contains__ for form, known in names.items()}
    if source.prefix is not None and not any(search.is_below(key, source.prefix, inside) for key in tensors):
        known = dict.fromkeys(repr(place.prefix) for place in search.candidates(inside, knows, None))
        raise ValueError(
            f"{source.name} holds nothing below prefix={source.prefix!r}; of {adapter.model_name} there is something "
            f"below {some(list(known)) or 'no prefix'}."
        )
    places = search.candidates(inside, knows, source.prefix)
    if places and len(places[0].keys) > len(names["timm"]) // 2:
        yield from _by_names(inside, places, blueprint, source)
    else:
        yield from _by_filter(inside, names["timm"], blueprint, source)


def _by_names(
    inside: Mapping[str, Any], places: list[search.Candidate], blueprint: Blueprint, source: Source
) -> Iterator[Reading]:
    """A place whose names are known: as it stands, and after timm's filter."""
    tensors = search.flatten(inside)
    place, seconds = search.choose(places, tensors, source.name)
    form = FORMATS[place.form]
    found = search.below(tensors, place.prefix)
    told = found.pop(norm_eps.KEY, None) if form is ADAPTERS else None
    eps = form.norm_eps if told is None else float(told)
    named, extra = _timm_names(found, form)
    if form.twins_only:
        named.update(search.below(tensors, f"{LEFT_OUT}."))

    def reading(state: StateDict, how: str) -> Reading:
        report = _report(source, form, place.prefix, how)
        for second in seconds:
            report.leave_out(f"second to {place.container!r}", second.prefix)
        return Reading(
            state={**ADAPTERS.write(state)[0], **extra},
            blueprint=blueprint,
            form=form,
            norm_eps=None if eps == TIMM.norm_eps else eps,
            img_size=None if how else source.img_size,
            report=report,
        )

    yield reading(named, "")
    if (filtered := _filter(named, blueprint, source)) is not None:
        through_filter = reading(filtered, FILTER)
        _note_sizes(named, filtered, through_filter.report)
        yield through_filter


def _by_filter(
    inside: Mapping[str, Any], known: frozenset[str], blueprint: Blueprint, source: Source
) -> Iterator[Reading]:
    """Names that only timm's filter may understand: it says which of the likely places is the backbone."""
    tensors = search.flatten(inside)
    prefixes = search.wrapper_prefixes(inside, source.prefix) or [source.prefix or ""]
    states = {prefix: search.below(tensors, prefix) for prefix in prefixes}
    yield Reading(
        ADAPTERS.write(states[prefixes[0]])[0], blueprint, TIMM, None, None, _report(source, TIMM, prefixes[0], "")
    )
    filtered = {prefix: _filter(state, blueprint, source) for prefix, state in states.items()}
    fits = {prefix: known & state.keys() for prefix, state in filtered.items() if state is not None}
    if not any(fits.values()):
        return
    best = max(fits, key=lambda prefix: (len(fits[prefix]), -search.rank_of(prefix, inside)))
    for prefix in fits:
        apart = not prefix.startswith(best) and not best.startswith(prefix)
        if apart and len(fits[prefix]) == len(fits[best]):
            search.refuse_rival(best, prefix, inside, source.name)
    state = filtered[best]
    assert state is not None
    report = _report(source, TIMM, best, FILTER)
    _note_sizes(states[best], state, report)
    yield Reading(ADAPTERS.write(state)[0], blueprint, TIMM, None, None, report)


def _timms_own(adapter: BackboneAdapter, blueprint: Blueprint) -> Reading:
    """The weights of the model's tag, as timm itself loads them into the whole model."""
    state = pretrained_state(adapter.model_name, adapter.in_channels, adapter.trunk_arguments)
    report = Report(f"timm's weights of {adapter.model_name}", "timm's names")
    for key in [key for key, tensor in state.items() if tensor.is_floating_point() and tensor.isnan().all()]:
        del state[key]
    channels = blueprint.channels
    if channels != adapter.in_channels:
        for key in blueprint.first_convs:
            report.note("adapted", key, f"from {channels} channels to {adapter.in_channels}")
    return Reading(ADAPTERS.write(state)[0], blueprint, TIMM, None, None, report)


def _known_names(adapter: BackboneAdapter) -> dict[str, frozenset[str]]:
    """The names of the adapter's tensors in each format that its family's checkpoints come in."""
    own = adapter.state_dict()
    timms, _ = _timm_names(own, ADAPTERS)
    twins = "twins" in adapter.timm_modules
    forms = [form for form in FORMATS.values() if form is not ADAPTERS and (twins or not form.twins_only)]
    return {"adapters": frozenset(own), **{form.name: frozenset(form.write(timms)[0]) for form in forms}}


def _timm_names(state: Mapping[str, Tensor], form: Format) -> tuple[StateDict, StateDict]:
    """The backbone's tensors under timm's names, and those of the adapter's own that timm has not."""
    extra = {key: tensor for key, tensor in state.items() if form is ADAPTERS and key.startswith("pyramid.")}
    return form.read({key: tensor for key, tensor in state.items() if key not in extra}), extra


def _report(source: Source, form: Format, prefix: str, how: str) -> Report:
    return Report(source.name, f"{form.title} names" + (f" below {prefix!r}" if prefix else "") + how)


def _filter(state: StateDict, blueprint: Blueprint, source: Source) -> StateDict | None:
    """What timm's filter makes of it; None where there is none or it fails, for it takes much for granted."""
    if not blueprint.has_filter:
        return None
    try:
        return blueprint.filter(state, source.img_size)
    except Exception:
        return None


def _note_sizes(state: StateDict, filtered: StateDict, report: Report) -> None:
    for key, tensor in filtered.items():
        if key in state and tensor.shape != state[key].shape:
            report.note("resized", key, f"{tuple(state[key].shape)} -> {tuple(tensor.shape)}")
