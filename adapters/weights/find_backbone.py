"""Finding the backbone in a checkpoint: bare, inside a detector, or in a container of a training run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from adapters.weights.file import StateDict
from adapters.weights.key_prefixes import Checkpoint, are_equal, starts

#: Prefixes that wrappers put before a model's names.
_WRAPPERS = ("_orig_mod.", "module.", "model.", "backbone.", "encoder.", "trunk.")


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
        for start in starts(key):
            name = checkpoint.unwrap(key[start:])
            for format_name, is_known in knows.items():
                if is_known(name):
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


def second_choices(best: str, fitting: list[str], checkpoint: Checkpoint) -> list[str]:
    """Return the prefixes of weights that are second choice to ``best``, of those below which as many tensors fit.

    Raises:
        ValueError: weights of the same standing are among them that are not the same.
    """
    rivals = [prefix for prefix in fitting if not prefix.startswith(best) and not best.startswith(prefix)]
    rank = checkpoint.rank_of(best)
    equals = [rival for rival in rivals if checkpoint.rank_of(rival) == rank]
    if others := [rival for rival in equals if not checkpoint.holds_the_same(best, rival)]:
        raise _ambiguous([best, *others], checkpoint)
    return [rival for rival in rivals if checkpoint.rank_of(rival) > rank]


def _ambiguous(prefixes: list[str], checkpoint: Checkpoint) -> ValueError:
    return ValueError(
        f"{checkpoint.name} holds {len(prefixes)} backbones that fit equally well, below "
        f"{', '.join(map(repr, prefixes))}. Name one: init_cfg=dict(type='Pretrained', checkpoint=..., "
        f"prefix={prefixes[0]!r})."
    )


def _same_tensors(one: Candidate, other: Candidate, tensors: StateDict) -> bool:
    if one.format_name != other.format_name:
        return False
    return all(are_equal(tensors[key], tensors.get(other.prefix + key[len(one.prefix) :])) for key in one.keys)
