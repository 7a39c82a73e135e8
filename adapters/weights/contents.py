"""The contents of a checkpoint as loading takes them: nested dictionaries of tensors, and word of what was read past."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from adapters.weights.pickle_records import Global, Record
from adapters.weights.rebuild import UNREADABLE
from adapters.weights.report import some

#: Dictionaries within dictionaries that a checkpoint may have, and values in all of them.
_DEPTH, _SIZE = 50, 5_000_000


class Contents(dict[str, Any]):
    """The contents of a checkpoint.

    Attributes:
        notes: parts of a sentence for the report: where the tensors were found, and what else was there.
    """

    def __init__(self, items: Mapping[Any, Any] | Iterable[tuple[Any, Any]], notes: Iterable[str] = ()) -> None:
        super().__init__(items)
        self.notes = list(notes)

    def title(self, name: str) -> str:
        """Return the name of the checkpoint with the notes, as the report shows it."""
        return f"{name} ({'; '.join(self.notes)})" if self.notes else name


def tidy(root: Any) -> Contents:
    """Make nested dictionaries of what was read, and note the tensors that they have no names for.

    Args:
        root: what :mod:`adapters.weights.torch_file` gives.

    Raises:
        ValueError: it is no dictionary, holds tensors of a kind that cannot be read, or contains itself. The message
            lacks the name of the file.
    """
    walk = _Walk()
    if (mapping := as_mapping(root)) is not None:
        contents = Contents(walk.copy(mapping, ()))
    elif isinstance(root, Record) and (state := module_state(root)) is not None:
        contents, walk.modules = Contents(walk.copy(state, ())), [root.path]
    else:
        found = f"{root.path} object" if isinstance(root, Record | Global) else type(root).__name__
        raise ValueError(f"holds a {found}, not a state dict; save what model.state_dict() gives")
    if not walk.found_tensors and walk.module_places:
        contents = Contents(walk.copy(mapping or {}, (), open_modules=True))
        walk.read_past = {place: path for place, path in walk.read_past.items() if place not in walk.module_places}
    if walk.modules:
        contents.notes.append(f"the tensors of a whole {some(walk.modules, 2)}")
    if walk.read_past:
        parts = [f"{place}, a {path}" if path else place for place, path in walk.read_past.items()]
        contents.notes.append(f"read past, with tensors in them: {some(parts, 4)}")
    return contents


def as_mapping(value: Any) -> Mapping[Any, Any] | None:
    """Return a dictionary, or the items of a record whose class is one."""
    if isinstance(value, Record):
        return value.entries or None
    return value if isinstance(value, Mapping) else None


def module_state(record: Record) -> dict[str, Any] | None:
    """Return the state dict of a module that was pickled whole; None where the record is of something else."""
    state = record.state if isinstance(record.state, dict) else {}
    parts = [as_mapping(state.get(part, 0)) for part in ("_parameters", "_buffers", "_modules")]
    if not {"_parameters", "_buffers", "_modules"} <= state.keys():
        return None
    parameters, buffers, modules = [part or {} for part in parts]
    passing = state.get("_non_persistent_buffers_set")
    own = {**parameters, **{key: value for key, value in buffers.items() if key not in (passing or ())}}
    below = {
        f"{name}.{key}": tensor
        for name, module in modules.items()
        if isinstance(module, Record)
        for key, tensor in (module_state(module) or {}).items()
    }
    return {**{key: value for key, value in own.items() if value is not None}, **below}


def holds_tensors(value: Any) -> bool:
    """Return whether weights, tensors of floating point with a dimension, lie anywhere in a value."""
    waiting, seen = [value], set()
    while waiting:
        part = waiting.pop()
        if isinstance(part, Tensor):
            if part.is_floating_point() and part.ndim:
                return True
        elif isinstance(part, Record | Mapping | list | tuple) and id(part) not in seen:
            seen.add(id(part))
            if isinstance(part, Record):
                waiting += [part.arguments, part.state, part.values, part.entries]
            else:
                waiting += part.values() if isinstance(part, Mapping) else part
    return False


class _Walk:
    """The way through nested dictionaries, and what was met on it."""

    def __init__(self) -> None:
        self.found_tensors = False
        self.modules: list[str] = []
        self.module_places: set[str] = set()
        self.read_past: dict[str, str] = {}
        self._count = 0

    def copy(self, mapping: Mapping[Any, Any], place: tuple[str, ...], open_modules: bool = False) -> dict[str, Any]:
        """Copy dictionaries, those of classes of their own as plain ones."""
        self._count += len(mapping)
        if len(place) > _DEPTH or self._count > _SIZE:
            raise ValueError("contains itself, or more dictionaries in each other than a checkpoint has")
        copied: dict[str, Any] = {}
        for key, value in mapping.items():
            here = (*place, str(key))
            state = module_state(value) if isinstance(value, Record) else None
            if (inner := as_mapping(value)) is not None:
                copied[str(key)] = self.copy(inner, here, open_modules)
            elif state is not None and open_modules:
                self.modules.append(value.path)
                copied[str(key)] = self.copy(state, here)
            else:
                copied[str(key)] = value
                self._note(value, here)
                if state is not None:
                    self.module_places.add(".".join(here))
        return copied

    def _note(self, value: Any, place: tuple[str, ...]) -> None:
        """Note a value that is no dictionary."""
        name = ".".join(place)
        if isinstance(value, Tensor):
            self.found_tensors = True
        elif isinstance(value, Record) and value.path in UNREADABLE:
            kind, remedy = UNREADABLE[value.path]
            raise ValueError(f"holds a tensor that is {kind}, {name}; where it was saved, save {remedy} instead of it")
        elif isinstance(value, Record | list | tuple) and holds_tensors(value):
            self.read_past[name] = value.path if isinstance(value, Record) else ""
