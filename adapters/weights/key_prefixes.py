"""The tensors of a checkpoint file: their names without the prefixes of wrappers, and which are averaged weights.

Which prefix a backbone has inside a detector is found in :mod:`adapters.weights.find_backbone`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adapters.weights.file import StateDict

#: Parts that wrappers of PyTorch and of peft put into the middle of names.
_WRAPPERS: tuple[str, ...] = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module", "_forward_module")

#: More of them, whose names some models use for their own layers.
_AMBIGUOUS_WRAPPERS = ("module", "base_layer")

#: Parts of a prefix below which weights are averaged, and are the ones meant for use.
_AVERAGED = re.compile(r"(\w+_)?(ema|teacher|momentum|avg|averaged|swa)(_\w+)?|target_\w+", re.IGNORECASE)

#: Parts below which the weights are that were not averaged; mmengine swaps the two when it saves.
_NOT_AVERAGED = re.compile(r"ema_state_dict|(\w+_)?student(_\w+)?|online_\w+", re.IGNORECASE)


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a checkpoint file.

    Attributes:
        name: the file's, for messages.
        tensors: all of them, those of nested dictionaries under dotted names.
        containers: the keys of nested dictionaries.
        wrappers: parts of names that mean nothing.
    """

    name: str
    tensors: StateDict
    containers: tuple[str, ...]
    wrappers: tuple[str, ...] = _WRAPPERS

    @classmethod
    def from_contents(
        cls, contents: Mapping[str, Any], name: str, model_names: Iterable[str] | None = None
    ) -> "Checkpoint":
        """Flatten what a file holds; everything but tensors is dropped.

        Args:
            contents: of the file.
            name: the file's.
            model_names: names of the model that is looked for, whose parts are never taken for wrappers; None where
                none is known.
        """
        containers = tuple(key for key, value in contents.items() if isinstance(value, Mapping))
        wrappers = _WRAPPERS
        if model_names is not None:
            own = {part for model_name in model_names for part in model_name.split(".")}
            wrappers += tuple(part for part in _AMBIGUOUS_WRAPPERS if part not in own)
        return cls(name, _flatten(contents), containers, wrappers)

    def unwrap(self, name: str) -> str:
        """Return a name without the wrappers in its middle; those at its beginning belong to its prefix."""
        if not any(part in name for part in self.wrappers):
            return name
        first, *others = name.split(".")
        return ".".join([first, *(part for part in others if part not in self.wrappers)])

    def below(self, prefix: str) -> StateDict:
        """Return the tensors of any shape below a prefix, under their names without it and without wrappers."""
        stripped = strip_prefix(self.tensors, prefix)
        unwrapped = {name: self.unwrap(name) for name in stripped}
        counts = dict.fromkeys(unwrapped.values(), 0)
        for name in unwrapped.values():
            counts[name] += 1
        # Two that a wrapper alone tells apart keep their names, so that neither is lost.
        return {(unwrapped[name] if counts[unwrapped[name]] == 1 else name): stripped[name] for name in stripped}

    def container_of(self, prefix: str) -> str:
        """Return the container with which a prefix begins; empty where it begins with none."""
        outermost = prefix.split(".", 1)[0]
        return outermost if outermost in self.containers else ""

    def rank_of(self, prefix: str) -> int:
        """Return 0 for averaged weights, which are preferred, 2 for those that they are averages of, 1 for others."""
        parts = prefix.split(".")
        if any(_NOT_AVERAGED.fullmatch(part) for part in parts):
            return 2
        return 0 if any(_AVERAGED.fullmatch(part) for part in parts) else 1

    def standing_of(self, prefix: str) -> str:
        """Return the part of a prefix that says of which standing its weights are, for messages."""
        averaged = next((part for part in prefix.split(".") if _AVERAGED.fullmatch(part)), "")
        return averaged or self.container_of(prefix) or prefix.rstrip(".")

    def is_below(self, name: str, prefix: str) -> bool:
        """Return whether a name begins with a prefix, whose container and last dot may be left out."""
        wanted = prefix if not prefix or prefix.endswith(".") else f"{prefix}."
        return name.startswith(wanted) or name.removeprefix(f"{self.container_of(name)}.").startswith(wanted)

    def holds_the_same(self, one: str, other: str) -> bool:
        """Return whether the tensors below two prefixes are equal."""
        ones, others = self.below(one), self.below(other)
        return ones.keys() == others.keys() and all(are_equal(tensor, others[key]) for key, tensor in ones.items())

    def prefixes(self, least: int) -> list[str]:
        """List the prefixes below which there are at least so many tensors, shortest first."""
        counts: dict[str, int] = {}
        for name in self.tensors:
            for start in starts(name):
                counts[name[:start]] = counts.get(name[:start], 0) + 1
        large = [prefix for prefix, count in counts.items() if count >= least]
        return sorted(large, key=lambda prefix: (self.rank_of(prefix), len(prefix), prefix))


def strip_prefix(tensors: StateDict, prefix: str) -> StateDict:
    """Return the tensors of any shape whose names begin with ``prefix``, without it."""
    return {key[len(prefix) :]: tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def starts(name: str) -> Iterator[int]:
    """Iterate over the positions at which a dotted name's parts begin."""
    yield 0
    for position, character in enumerate(name):
        if character == ".":
            yield position + 1


def is_plain(tensor: Tensor) -> bool:
    """Return whether a tensor of any shape holds ordinary numbers: none on the meta device, sparse or quantised."""
    if tensor.is_meta or tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex():
        return False
    return not tensor.is_floating_point() or tensor.element_size() > 1


def are_equal(tensor: Tensor, other: Tensor | None) -> bool:
    """Return whether two tensors of any shape hold the same numbers."""
    if other is None or not is_plain(tensor) or not is_plain(other):
        return False
    return tensor.shape == other.shape and torch.equal(tensor, other)


def _flatten(contents: Mapping[Any, Any], prefix: str = "") -> StateDict:
    tensors: StateDict = {}
    for key, value in contents.items():
        if isinstance(value, Tensor):
            tensors[f"{prefix}{key}"] = value
        elif isinstance(value, Mapping):
            tensors.update(_flatten(value, f"{prefix}{key}."))
    return tensors
