"""Finding the backbone in what a checkpoint holds: bare, inside a detector, in a container of a training run."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adapters.weights.file import StateDict

#: Containers of averaged weights, which are the ones meant for use.
AVERAGED = ("state_dict_ema", "model_ema", "ema", "teacher")

#: mmengine swaps the two when it saves: here lie the weights that were not averaged.
SET_ASIDE = ("ema_state_dict",)

#: What wrappers put before the names of a model, for checkpoints whose names only timm's filter understands.
WRAPPERS = ("_orig_mod.", "module.", "model.", "backbone.", "encoder.", "trunk.")


@dataclass(frozen=True)
class Candidate:
    """A place in a checkpoint where a backbone's tensors may lie.

    Attributes:
        form: name of the key format.
        prefix: all of what comes before the format's names, containers included.
        keys: the full names that fit.
        container: the outermost container, if the prefix begins with one.
    """

    form: str
    prefix: str
    keys: frozenset[str]
    container: str

    @property
    def rank(self) -> int:
        """Containers that are preferred come first."""
        return 0 if self.container in AVERAGED else 2 if self.container in SET_ASIDE else 1


def flatten(contents: Mapping[Any, Any], prefix: str = "") -> StateDict:
    """All tensors of a nested checkpoint, under dotted names."""
    tensors: StateDict = {}
    for key, value in contents.items():
        if isinstance(value, Tensor):
            tensors[f"{prefix}{key}"] = value
        elif isinstance(value, Mapping):
            tensors.update(flatten(value, f"{prefix}{key}."))
    return tensors


def below(tensors: Mapping[str, Tensor], prefix: str) -> StateDict:
    """The tensors whose names begin with ``prefix``, without it."""
    return {key[len(prefix) :]: tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def candidates(
    contents: Mapping[str, Any], knows: Mapping[str, Callable[[str], bool]], prefix: str | None
) -> list[Candidate]:
    """Every place whose names some format knows, best first.

    Args:
        contents: of the checkpoint.
        knows: for each format, whether a name is one of the backbone's.
        prefix: if given, only places at or below it.
    """
    found: dict[tuple[str, str], set[str]] = {}
    for key in flatten(contents):
        for start in _starts(key):
            for form, is_known in knows.items():
                if is_known(key[start:]):
                    found.setdefault((form, key[:start]), set()).add(key)
    order = list(knows)
    places = [
        Candidate(form, place, frozenset(keys), _container(place, contents)) for (form, place), keys in found.items()
    ]
    if prefix is not None:
        places = [place for place in places if is_below(place.prefix, prefix, contents)]
    return sorted(places, key=lambda place: (-len(place.keys), place.rank, len(place.prefix), order.index(place.form)))


def choose(places: list[Candidate], tensors: Mapping[str, Tensor], path: str) -> tuple[Candidate, list[Candidate]]:
    """The best place, and others that fit as well but are known to be second choice.

    Of averaged weights and those that they are the average of, the averaged ones are taken, as timm does.

    Raises:
        ValueError: two places fit equally well and hold different tensors.
    """
    best = places[0]
    rivals: list[Candidate] = []
    for place in places[1:]:
        if len(place.keys) == len(best.keys) and all(place.keys.isdisjoint(other.keys) for other in [best, *rivals]):
            rivals.append(place)
    equals = [place for place in rivals if place.rank == best.rank and not _same_tensors(best, place, tensors)]
    if equals:
        raise _ambiguous([place.prefix for place in [best, *equals]], path)
    return best, [place for place in rivals if place.rank > best.rank]


def wrapper_prefixes(contents: Mapping[str, Any], prefix: str | None) -> list[str]:
    """Prefixes made of containers and wrappers alone, shortest first: where names that no format knows may begin."""
    parts = tuple(f"{name}." for name, value in contents.items() if isinstance(value, Mapping)) + WRAPPERS
    found = {""}
    for key in flatten(contents):
        start = 0
        while part := next((part for part in parts if key.startswith(part, start)), ""):
            start += len(part)
            found.add(key[:start])
    places = [place for place in found if prefix is None or is_below(place, prefix, contents)]
    return sorted(places, key=lambda place: (rank_of(place, contents), len(place), place))


def is_below(place: str, prefix: str, contents: Mapping[str, Any]) -> bool:
    """Whether a place is at or below a prefix; the container before it and its last dot may be left out."""
    wanted = prefix if not prefix or prefix.endswith(".") else f"{prefix}."
    return place.startswith(wanted) or place.removeprefix(f"{_container(place, contents)}.").startswith(wanted)


def rank_of(place: str, contents: Mapping[str, Any]) -> int:
    """As :attr:`Candidate.rank`, of a place alone."""
    return Candidate("", place, frozenset(), _container(place, contents)).rank


def refuse_rival(best: str, rival: str, contents: Mapping[str, Any], path: str) -> None:
    """Refuse two places that fit as well, unless one is preferred or they hold the same.

    Raises:
        ValueError: they are ambiguous.
    """
    tensors = flatten(contents)
    if rank_of(best, contents) == rank_of(rival, contents):
        one, other = below(tensors, best), below(tensors, rival)
        if one.keys() != other.keys() or not all(_equal(tensor, other[key]) for key, tensor in one.items()):
            raise _ambiguous([best, rival], path)


def _container(place: str, contents: Mapping[str, Any]) -> str:
    outermost = place.split(".", 1)[0]
    return outermost if isinstance(contents.get(outermost), Mapping) else ""


def _starts(key: str) -> Iterator[int]:
    yield 0
    for position, character in enumerate(key):
        if character == ".":
            yield position + 1


def _ambiguous(prefixes: list[str], path: str) -> ValueError:
    return ValueError(
        f"{path} holds {len(prefixes)} backbones that fit equally well, below {', '.join(map(repr, prefixes))}. Name "
        f"one: init_cfg=dict(type='Pretrained', checkpoint=..., prefix={prefixes[0]!r})."
    )


def _same_tensors(one: Candidate, other: Candidate, tensors: Mapping[str, Tensor]) -> bool:
    if one.form != other.form:
        return False
    return all(_equal(tensors[key], tensors.get(other.prefix + key[len(one.prefix) :])) for key in one.keys)


def _equal(tensor: Tensor, other: Tensor | None) -> bool:
    return other is not None and tensor.shape == other.shape and torch.equal(tensor, other)
