"""Finding the backbone in a checkpoint: bare, inside a detector, or in a container of a training run."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adapters.weights.file import StateDict

#: Containers of averaged weights, which are the ones meant for use.
_AVERAGED = ("state_dict_ema", "model_ema", "ema", "teacher")

#: Containers of weights that were not averaged; mmengine swaps the two when it saves.
_NOT_AVERAGED = ("ema_state_dict",)

#: Prefixes that wrappers put before a model's names, for checkpoints whose names only timm's filter understands.
_WRAPPERS = ("_orig_mod.", "module.", "model.", "backbone.", "encoder.", "trunk.")


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a checkpoint file.

    Attributes:
        name: the file's, for messages.
        tensors: all of them, those of nested dictionaries under dotted names.
        containers: the keys of nested dictionaries.
    """

    name: str
    tensors: StateDict
    containers: tuple[str, ...]

    @classmethod
    def from_contents(cls, contents: Mapping[str, Any], name: str) -> "Checkpoint":
        """Flatten what a file holds; everything but tensors is dropped."""
        return cls(
            name, _flatten(contents), tuple(key for key, value in contents.items() if isinstance(value, Mapping))
        )

    def below(self, prefix: str) -> StateDict:
        """Return the tensors below a prefix, without it."""
        return strip_prefix(self.tensors, prefix)

    def container_of(self, prefix: str) -> str:
        """Return the container with which a prefix begins; empty where it begins with none."""
        outermost = prefix.split(".", 1)[0]
        return outermost if outermost in self.containers else ""

    def rank_of(self, prefix: str) -> int:
        """Return 0 for averaged weights, which are preferred, 2 for those that they are averages of, 1 for others."""
        container = self.container_of(prefix)
        return 0 if container in _AVERAGED else 2 if container in _NOT_AVERAGED else 1

    def is_below(self, name: str, prefix: str) -> bool:
        """Return whether a name begins with a prefix, whose container and last dot may be left out."""
        wanted = prefix if not prefix or prefix.endswith(".") else f"{prefix}."
        return name.startswith(wanted) or name.removeprefix(f"{self.container_of(name)}.").startswith(wanted)


@dataclass(frozen=True)
class Candidate:
    """A place in a checkpoint where a backbone's tensors may lie.

    Attributes:
        format_name: the key format.
        prefix: all that comes before the format's names, containers included.
        keys: the full names that fit.
    """

    format_name: str
    prefix: str
    keys: frozenset[str]


def strip_prefix(tensors: StateDict, prefix: str) -> StateDict:
    """Return the tensors whose names begin with ``prefix``, without it."""
    return {key[len(prefix) :]: tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def find_candidates(
    checkpoint: Checkpoint, knows: Mapping[str, Callable[[str], bool]], prefix: str | None
) -> list[Candidate]:
    """List every place whose names some format knows, best first.

    Args:
        checkpoint: to search.
        knows: for each format, a function that says whether a name is one of the backbone's.
        prefix: if given, only places at or below it.
    """
    found: dict[tuple[str, str], set[str]] = {}
    for key in checkpoint.tensors:
        for start in _starts(key):
            for format_name, is_known in knows.items():
                if is_known(key[start:]):
                    found.setdefault((format_name, key[:start]), set()).add(key)
    order = list(knows)
    candidates = [
        Candidate(format_name, place, frozenset(keys))
        for (format_name, place), keys in found.items()
        if prefix is None or checkpoint.is_below(place, prefix)
    ]

    def preference(candidate: Candidate) -> tuple[int, ...]:
        rank = checkpoint.rank_of(candidate.prefix)
        return -len(candidate.keys), rank, len(candidate.prefix), order.index(candidate.format_name)

    return sorted(candidates, key=preference)


def choose(candidates: list[Candidate], checkpoint: Checkpoint) -> tuple[Candidate, list[Candidate]]:
    """Return the best candidate, and others that fit as well but are known to be second choice.

    Of averaged weights and those that they are the average of, the averaged ones are taken, as timm does.

    Raises:
        ValueError: two candidates fit equally well and hold different tensors.
    """
    best = candidates[0]
    rivals: list[Candidate] = []
    for candidate in candidates[1:]:
        if len(candidate.keys) == len(best.keys) and all(
            candidate.keys.isdisjoint(other.keys) for other in [best, *rivals]
        ):
            rivals.append(candidate)
    rank = checkpoint.rank_of(best.prefix)
    equals = [
        rival
        for rival in rivals
        if checkpoint.rank_of(rival.prefix) == rank and not _same_tensors(best, rival, checkpoint.tensors)
    ]
    if equals:
        raise _ambiguous([candidate.prefix for candidate in [best, *equals]], checkpoint)
    return best, [rival for rival in rivals if checkpoint.rank_of(rival.prefix) > rank]


def wrapper_prefixes(checkpoint: Checkpoint, prefix: str | None) -> list[str]:
    """List the prefixes made of containers and wrappers alone, shortest first: names no format knows may follow."""
    parts = (*(f"{container}." for container in checkpoint.containers), *_WRAPPERS)
    found = {""}
    for key in checkpoint.tensors:
        start = 0
        while part := next((part for part in parts if key.startswith(part, start)), ""):
            start += len(part)
            found.add(key[:start])
    places = [place for place in found if prefix is None or checkpoint.is_below(place, prefix)]
    return sorted(places, key=lambda place: (checkpoint.rank_of(place), len(place), place))


def refuse_rival(best: str, rival: str, checkpoint: Checkpoint) -> None:
    """Refuse two prefixes below which tensors fit equally well, unless one is preferred or they hold the same.

    Raises:
        ValueError: they are ambiguous.
    """
    if checkpoint.rank_of(best) == checkpoint.rank_of(rival):
        one, other = checkpoint.below(best), checkpoint.below(rival)
        if one.keys() != other.keys() or not all(_equal(tensor, other[key]) for key, tensor in one.items()):
            raise _ambiguous([best, rival], checkpoint)


def _flatten(contents: Mapping[Any, Any], prefix: str = "") -> StateDict:
    tensors: StateDict = {}
    for key, value in contents.items():
        if isinstance(value, Tensor):
            tensors[f"{prefix}{key}"] = value
        elif isinstance(value, Mapping):
            tensors.update(_flatten(value, f"{prefix}{key}."))
    return tensors


def _starts(key: str) -> Iterator[int]:
    yield 0
    for position, character in enumerate(key):
        if character == ".":
            yield position + 1


def _ambiguous(prefixes: list[str], checkpoint: Checkpoint) -> ValueError:
    return ValueError(
        f"{checkpoint.name} holds {len(prefixes)} backbones that fit equally well, below "
        f"{', '.join(map(repr, prefixes))}. Name one: init_cfg=dict(type='Pretrained', checkpoint=..., "
        f"prefix={prefixes[0]!r})."
    )


def _same_tensors(one: Candidate, other: Candidate, tensors: StateDict) -> bool:
    if one.format_name != other.format_name:
        return False
    return all(_equal(tensors[key], tensors.get(other.prefix + key[len(one.prefix) :])) for key in one.keys)


def _equal(tensor: Tensor, other: Tensor | None) -> bool:
    return other is not None and tensor.shape == other.shape and torch.equal(tensor, other)
