"""The interpretations of a checkpoint: which backbone in it, in which key format, with or without timm's filter."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from torch import Tensor

from adapters.weights.download import fetch_contents
from adapters.weights.file import StateDict
from adapters.weights.find_backbone import (
    Candidate,
    Checkpoint,
    choose,
    find_candidates,
    refuse_rival,
    strip_prefix,
    wrapper_prefixes,
)
from adapters.weights.formats import ADAPTERS, FORMATS, LEFT_OUT, TIMM, TRUNK, Format
from adapters.weights.report import Row, some
from adapters.weights.source import Source
from adapters.weights.target import WeightsTarget
from adapters.weights.timm_pretrained import TimmCheckpointInfo, catch_timm_loading, pretrained_state

#: Addition to a report of an interpretation that timm's filter has rewritten.
_FILTERED = ", through timm's filter"


@dataclass(frozen=True)
class Interpretation:
    """One way to understand a checkpoint.

    Attributes:
        state: its tensors under the adapter's own names.
        info: timm's knowledge of the model's checkpoints.
        source: the name of the checkpoint.
        found_as: the key format and the prefix, for the report.
        format: the key format.
        img_size: ``(H, W)`` for which its position embeddings are, if they are to be resampled from there.
        second_choices: other backbones that fit as well, as pairs of the reason and the prefix.
        notes: tensors that timm has changed already, for the report.
    """

    state: StateDict
    info: TimmCheckpointInfo
    source: str
    found_as: str
    format: Format = TIMM
    img_size: tuple[int, int] | None = None
    second_choices: list[tuple[str, str]] = field(default_factory=list)
    notes: list[Row] = field(default_factory=list)


def interpretations(adapter: WeightsTarget, source: Source) -> Iterator[Interpretation]:
    """Yield the ways to understand a source, the most literal first.

    Raises:
        ValueError: it cannot be found or read, or none or more than one backbone in it fits.
    """
    info = catch_timm_loading(adapter.model_name, adapter.in_channels, adapter.trunk_arguments)
    if source.name == "timm":
        yield _from_timm(adapter, info)
        return
    contents = fetch_contents(source.name)
    source = replace(source, name=contents.title(source.name))
    checkpoint = Checkpoint.from_contents(contents, source.name)
    if not checkpoint.tensors:
        raise ValueError(f"{source.name} holds no tensors.")
    names = _known_names(adapter)
    knows = {format_name: known.__contains__ for format_name, known in names.items()}
    if source.prefix is not None and not any(checkpoint.is_below(key, source.prefix) for key in checkpoint.tensors):
        prefixes = dict.fromkeys(repr(place.prefix) for place in find_candidates(checkpoint, knows, None))
        raise ValueError(
            f"{source.name} holds nothing below prefix={source.prefix!r}; of {adapter.model_name} there is something "
            f"below {some(list(prefixes)) or 'no prefix'}."
        )
    candidates = find_candidates(checkpoint, knows, source.prefix)
    if candidates and len(candidates[0].keys) > len(names["timm"]) // 2:
        yield from _by_names(checkpoint, candidates, info, source)
    else:
        yield from _by_filter(checkpoint, names["timm"], info, source)


def _by_names(
    checkpoint: Checkpoint, candidates: list[Candidate], info: TimmCheckpointInfo, source: Source
) -> Iterator[Interpretation]:
    """Interpret the best candidate by the names of its format: as it stands, and after timm's filter."""
    place, seconds = choose(candidates, checkpoint)
    checkpoint_format = FORMATS[place.format_name]
    named = checkpoint_format.read(checkpoint.below(place.prefix)) | checkpoint.below(f"{LEFT_OUT}.")
    state, _ = ADAPTERS.write(named)
    found_as = _describe(checkpoint_format, place.prefix)
    reason = f"second to {checkpoint.container_of(place.prefix)!r}"
    second_choices = [(reason, second.prefix) for second in seconds]
    yield Interpretation(state, info, source.name, found_as, checkpoint_format, source.img_size, second_choices)

    trunk = strip_prefix(state, TRUNK)
    if (filtered := _filter(trunk, info, source)) is not None:
        yield Interpretation(
            {key: tensor for key, tensor in state.items() if not key.startswith(TRUNK)} | ADAPTERS.write(filtered)[0],
            info,
            source.name,
            found_as + _FILTERED,
            checkpoint_format,
            second_choices=second_choices,
            notes=_resized(trunk, filtered),
        )


def _by_filter(
    checkpoint: Checkpoint, known: frozenset[str], info: TimmCheckpointInfo, source: Source
) -> Iterator[Interpretation]:
    """Interpret names that only timm's filter may know: the likely prefix whose tensors it turns into most names."""
    prefixes = wrapper_prefixes(checkpoint, source.prefix) or [source.prefix or ""]
    states = {prefix: checkpoint.below(prefix) for prefix in prefixes}
    literal = prefixes[0]
    yield Interpretation(ADAPTERS.write(states[literal])[0], info, source.name, _describe(TIMM, literal))

    outcomes = {prefix: _filter(state, info, source) for prefix, state in states.items()}
    filtered = {prefix: state for prefix, state in outcomes.items() if state is not None}
    fits = {prefix: len(known & state.keys()) for prefix, state in filtered.items()}
    if not any(fits.values()):
        return
    best = max(fits, key=lambda prefix: (fits[prefix], -checkpoint.rank_of(prefix)))
    for prefix, fit in fits.items():
        if fit == fits[best] and not prefix.startswith(best) and not best.startswith(prefix):
            refuse_rival(best, prefix, checkpoint)
    yield Interpretation(
        ADAPTERS.write(filtered[best])[0],
        info,
        source.name,
        _describe(TIMM, best) + _FILTERED,
        notes=_resized(states[best], filtered[best]),
    )


def _from_timm(adapter: WeightsTarget, info: TimmCheckpointInfo) -> Interpretation:
    """Take the weights of the model's tag as timm itself loads them into the full model."""
    state = pretrained_state(adapter.model_name, adapter.in_channels, adapter.trunk_arguments)
    loaded = {key: tensor for key, tensor in state.items() if not _is_all_nan(tensor)}
    notes = []
    if info.channels != adapter.in_channels:
        change = f"from {info.channels} channels to {adapter.in_channels}"
        notes = [("adapted", key, change) for key in info.first_convs]
    source = f"timm's weights of {adapter.model_name}"
    return Interpretation(ADAPTERS.write(loaded)[0], info, source, "timm's names", notes=notes)


def _known_names(adapter: WeightsTarget) -> dict[str, frozenset[str]]:
    """Return the names of the adapter's tensors in each format that its family's checkpoints come in."""
    own = adapter.state_dict()
    timms = ADAPTERS.read(own)
    others = [other for other in FORMATS.values() if other is not ADAPTERS and other.serves(adapter.timm_modules)]
    return {ADAPTERS.name: frozenset(own), **{other.name: frozenset(other.write(timms)[0]) for other in others}}


def _describe(checkpoint_format: Format, prefix: str) -> str:
    return f"{checkpoint_format.title} names" + (f" below {prefix!r}" if prefix else "")


def _filter(state: StateDict, info: TimmCheckpointInfo, source: Source) -> StateDict | None:
    """Apply timm's filter; return None where there is none or it fails, for it takes much for granted."""
    if not info.has_filter:
        return None
    try:
        return info.filter(state, source.img_size)
    except Exception:
        return None


def _resized(state: StateDict, filtered: StateDict) -> list[Row]:
    return [
        ("resized", key, f"{tuple(state[key].shape)} -> {tuple(tensor.shape)}")
        for key, tensor in filtered.items()
        if key in state and tensor.shape != state[key].shape
    ]


def _is_all_nan(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and bool(tensor.isnan().all())
