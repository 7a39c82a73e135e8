"""The ways to understand a checkpoint: which backbone in it, in which key format, with or without timm's filter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from adapters.checkpoints import norm_eps, search
from adapters.checkpoints.files import StateDict
from adapters.checkpoints.report import Report
from adapters.checkpoints.sources import Source, contents
from adapters.checkpoints.timm_blueprint import Blueprint, draw, pretrained_state
from adapters.convert.formats import ADAPTERS, FORMATS, TIMM, Format

if TYPE_CHECKING:
    from adapters.base import BackboneAdapter


@dataclass(frozen=True)
class Reading:
    """One way to understand a checkpoint: its tensors under the adapter's own names."""

    state: StateDict
    blueprint: Blueprint
    report: Report


def readings(adapter: BackboneAdapter, source: Source) -> Iterator[Reading]:
    """Ways to understand a source, the most literal first.

    Raises:
        ValueError: it cannot be found or read, or more than one backbone in it fits.
    """
    arguments = (adapter.model_name, adapter.in_channels, adapter.trunk_arguments)
    blueprint = draw(*arguments)
    if source.name == "timm":
        state = pretrained_state(*arguments)
        unset = [key for key, tensor in state.items() if tensor.is_floating_point() and tensor.isnan().all()]
        for key in unset:
            del state[key]
        report = Report(f"timm's weights of {adapter.model_name}", "timm's names")
        yield Reading(_own_names(state), blueprint, report)
        return
    tensors = search.flatten(contents(source.name))
    if not tensors:
        raise ValueError(f"weights={source.name!r} holds no tensors.")
    names = _known_names(adapter)
    places = search.candidates(tensors, {form: known.__contains__ for form, known in names.items()}, source.prefix)
    if places and len(places[0].keys) > len(names["timm"]) // 2:
        place, second = search.choose(places, tensors, source.name)
        form = FORMATS[place.form]
        state = search.below(tensors, place.prefix)
        report = _report(source, form, place.prefix)
        for other in second:
            report.leave_out(f"second to {place.container!r}", other.prefix)
        prefixes = [place.prefix]
        yield _literal(state, form, blueprint, report)
    else:
        form = TIMM
        prefixes = search.wrapper_prefixes(tensors, source.prefix) or [source.prefix or ""]
        if not blueprint.has_filter:
            yield _literal(tensors, form, blueprint, _report(source, form, ""))
    if blueprint.has_filter:
        for prefix in prefixes:
            reading = _filtered(search.below(tensors, prefix), form, blueprint, _report(source, form, prefix))
            if reading is not None:
                yield reading


def _known_names(adapter: BackboneAdapter) -> dict[str, frozenset[str]]:
    """The names of the adapter's tensors in each format that its family's checkpoints come in."""
    own = adapter.state_dict()
    timms = ADAPTERS.read({key: tensor for key, tensor in own.items() if not key.startswith("pyramid.")})
    twins = "twins" in adapter.timm_modules
    forms = [form for form in FORMATS.values() if form is not ADAPTERS and (twins or not form.twins_only)]
    return {"adapters": frozenset(own), **{form.name: frozenset(form.write(timms)[0]) for form in forms}}


def _report(source: Source, form: Format, prefix: str) -> Report:
    where = f"{form.title} names" + (f" below {prefix!r}" if prefix else "")
    return Report(source.name, where, norm_eps=form.norm_eps)


def _literal(state: StateDict, form: Format, blueprint: Blueprint, report: Report) -> Reading:
    if form is ADAPTERS:
        eps = state.pop(norm_eps.KEY, None)
        report.norm_eps = form.norm_eps if eps is None else float(eps)
        return Reading(state, blueprint, report)
    return Reading(_own_names(form.read(state)), blueprint, report)


def _filtered(state: StateDict, form: Format, blueprint: Blueprint, report: Report) -> Reading | None:
    """The same after timm's filter; None where that fails on it."""
    named = form.read(state)
    try:
        filtered = blueprint.filter(named)
    except Exception:  # filters index and reshape what they take for granted
        return None
    report.form += ", through timm's filter"
    for key, tensor in filtered.items():
        if key in named and tensor.shape != named[key].shape:
            report.note("resized", key, f"{tuple(named[key].shape)} -> {tuple(tensor.shape)}")
    return Reading(_own_names(filtered), blueprint, report)


def _own_names(state: Mapping[str, Tensor]) -> StateDict:
    return ADAPTERS.write(state)[0]
