"""The interpretations of a checkpoint: which backbone in it, in which key format, with or without timm's filter."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from torch import Tensor

from adapters.trunk.factor_names import is_factor
from adapters.weights.download import fetch_contents
from adapters.weights.factors import settle_checkpoint
from adapters.weights.file import StateDict
from adapters.weights.filtered import Filtered, run_filter
from adapters.weights.find_backbone import Candidate, choose, find_candidates, second_choices
from adapters.weights.formats import ADAPTERS, LEFT_OUT, TIMM, TRUNK, Format
from adapters.weights.key_prefixes import Checkpoint, strip_prefix
from adapters.weights.known_names import KnownNames, known_names
from adapters.weights.report import Row, some
from adapters.weights.source import Source
from adapters.weights.target import WeightsTarget
from adapters.weights.timm_pretrained import TimmCheckpointInfo, catch_timm_loading, pretrained_state

#: Addition to a report of an interpretation that timm's filter has rewritten.
_FILTERED = ", through timm's filter"

#: Prefixes that some of timm's filters look for, for checkpoints that were saved without.
_LOOKED_FOR = ("image_encoder.", "radio_model.model.")


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
        elsewhere: names of the file's other tensors, as patterns.
        filtered: what timm's filter has done, if it was asked.
    """

    state: StateDict
    info: TimmCheckpointInfo
    source: str
    found_as: str
    format: Format = TIMM
    img_size: tuple[int, int] | None = None
    second_choices: list[tuple[str, str]] = field(default_factory=list)
    notes: list[Row] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    filtered: Filtered | None = None


@dataclass(frozen=True)
class _File:
    """A checkpoint that is searched for the backbone of one model."""

    checkpoint: Checkpoint
    info: TimmCheckpointInfo
    source: Source

    def interpret(
        self,
        prefix: str,
        state: StateDict,
        checkpoint_format: Format = TIMM,
        seconds: list[str] | None = None,
        filtered: Filtered | None = None,
    ) -> Interpretation:
        """Describe the tensors below a prefix, which have timm's names or this package's own by now."""
        named, notes = state, []
        found_as = f"{checkpoint_format.title} names" + (f" below {prefix!r}" if prefix else "")
        if filtered is not None:
            # What stands beside timm's model is not the filter's business.
            beside = {key: tensor for key, tensor in state.items() if not key.startswith(TRUNK)}
            named = beside | ADAPTERS.write(filtered.state)[0]
            before = strip_prefix(state, TRUNK)
            notes = [
                ("resized", key, f"{tuple(before[key].shape)} -> {tuple(tensor.shape)}")
                for key, tensor in filtered.state.items()
                if key in before and tensor.shape != before[key].shape
            ]
            found_as += _FILTERED
        reason = f"second to {self.checkpoint.standing_of(prefix)!r}"
        taken = (prefix, f"{LEFT_OUT}.", *(seconds or ()))
        others = [name for name in self.checkpoint.tensors if not name.startswith(taken)] if prefix else []
        return Interpretation(
            named,
            self.info,
            self.source.name,
            found_as,
            checkpoint_format,
            self.source.img_size if filtered is None else None,
            [(reason, second) for second in seconds or ()],
            notes,
            [_place(name, prefix) for name in others],
            filtered,
        )

    def filter(self, state: StateDict) -> Filtered | None:
        """Apply timm's filter to tensors under timm's names or the authors'."""
        return run_filter(state, self.info, self.source.img_size)


def interpretations(adapter: WeightsTarget, source: Source) -> Iterator[Iterator[Interpretation]]:
    """Yield groups of ways to understand a source, the most literal first; a later group is for when none fits.

    Raises:
        ValueError: it cannot be found or read, or none or more than one backbone in it fits.
    """
    info = catch_timm_loading(adapter.model_name, adapter.in_channels, adapter.trunk_arguments)
    if source.name == "timm":
        yield iter([_from_timm(adapter, info)])
        return
    names = known_names(adapter)
    contents = fetch_contents(source.name)
    tuned = any(map(is_factor, adapter.loadable_tensors()))
    checkpoint = Checkpoint.from_contents(contents, source.name, names.timm)
    checkpoint, told = settle_checkpoint(checkpoint, merged=not tuned)
    contents.notes += [told] if told else []
    source = replace(source, name=contents.title(source.name))
    if not checkpoint.tensors:
        raise ValueError(f"{source.name} holds no tensors.")
    if source.prefix is not None and not any(checkpoint.is_below(key, source.prefix) for key in checkpoint.tensors):
        prefixes = dict.fromkeys(repr(place.prefix) for place in find_candidates(checkpoint, names.knows, None))
        raise ValueError(
            f"{source.name} holds nothing below prefix={source.prefix!r}; of {adapter.model_name} there is something "
            f"below {some(list(prefixes)) or 'no prefix'}."
        )
    file = _File(checkpoint, info, source)
    candidates = find_candidates(checkpoint, names.knows, source.prefix)
    if candidates and len(candidates[0].keys) > len(names.timm) // 2:
        place, seconds = choose(candidates, checkpoint)
        yield _by_names(file, place, [second.prefix for second in seconds], names)
        yield _around(file, place.prefix, [second.prefix for second in seconds])
    else:
        yield _by_filter(file, names.timm)


def _by_names(file: _File, place: Candidate, seconds: list[str], names: KnownNames) -> Iterator[Interpretation]:
    """Interpret a place by the names of its format: as it stands, and after timm's filter."""
    checkpoint_format = names.formats[place.format_name]
    below = file.checkpoint.below
    named = checkpoint_format.read(below(place.prefix)) | below(f"{LEFT_OUT}.")
    state, _ = ADAPTERS.write(named)
    yield file.interpret(place.prefix, state, checkpoint_format, seconds)
    if filtered := file.filter(strip_prefix(state, TRUNK)):
        yield file.interpret(place.prefix, state, checkpoint_format, seconds, filtered)


def _around(file: _File, prefix: str, seconds: list[str]) -> Iterator[Interpretation]:
    """Interpret the tensors at a place with more of their prefix, and with prefixes that timm's filters look for."""
    parts = prefix.split(".")[:-1]
    for count in range(len(parts)):
        wider = "".join(f"{part}." for part in parts[:count])
        state = file.checkpoint.below(wider)
        if filtered := file.filter(state):
            yield file.interpret(wider, ADAPTERS.write(state)[0], seconds=seconds, filtered=filtered)
    literal = file.checkpoint.below(prefix)
    for beginning in _LOOKED_FOR:
        state = {beginning + name: tensor for name, tensor in literal.items()}
        if filtered := file.filter(state):
            yield file.interpret(prefix, ADAPTERS.write(state)[0], seconds=seconds, filtered=filtered)


def _by_filter(file: _File, known: frozenset[str]) -> Iterator[Interpretation]:
    """Interpret names that only timm's filter may know: the place whose tensors it turns into most of the model's."""
    checkpoint, wanted = file.checkpoint, file.source.prefix
    places = [
        place for place in checkpoint.prefixes(len(known) // 4) if wanted is None or checkpoint.is_below(place, wanted)
    ]
    places = places or [wanted or ""]
    states = {place: checkpoint.below(place) for place in places}
    yield file.interpret(places[0], ADAPTERS.write(states[places[0]])[0])

    outcomes = {place: outcome for place, state in states.items() if (outcome := file.filter(state))}
    fits = {place: len(known & outcome.state.keys()) for place, outcome in outcomes.items()}
    if not any(fits.values()):
        return
    best = max(fits, key=lambda place: (fits[place], -checkpoint.rank_of(place)))
    seconds = second_choices(best, [place for place in fits if fits[place] == fits[best]], checkpoint)
    yield file.interpret(best, ADAPTERS.write(states[best])[0], seconds=seconds, filtered=outcomes[best])


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


def _place(name: str, prefix: str) -> str:
    """Return the part of a file that a tensor belongs to, as seen from the backbone: ``state_dict.neck.*``."""
    parts, ours = name.split("."), prefix.split(".")
    depth = next(index for index, part in enumerate(parts) if index >= len(ours) or part != ours[index])
    return ".".join(parts[: depth + 1]) + (".*" if len(parts) > depth + 1 else "")


def _is_all_nan(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and bool(tensor.isnan().all())
