"""The contents of a checkpoint as loading takes them: nested dictionaries of tensors, and notes on the rest."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from adapters.weights.pickle_records import Global, Record
from adapters.weights.rebuild import UNREADABLE
from adapters.weights.report import some

#: Dictionaries within dictionaries that a checkpoint may have, and values in all of them, shared ones as often as they
#: are met.
_DEPTH, _SIZE = 50, 5_000_000

#: Beginnings of the names below which no weights of a model lie.
_RECORDS_OF_A_RUN = ("optim", "hyper_parameters", "hparams", "lr_sched", "callbacks", "loops")


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
    is_module = isinstance(root, Record) and _members(root) is not None
    if not is_module and _items(root) is None:
        found = f"{root.path} object" if isinstance(root, Record | Global) else type(root).__name__
        raise ValueError(f"holds a {found}, not a state dict; save what model.state_dict() gives")
    walk = _Walk(open_modules=is_module)
    copied = walk.copy(root, ())
    if not walk.found_tensors and walk.closed_modules:
        walk = _Walk(open_modules=True)
        copied = walk.copy(root, ())
    contents = Contents(copied)
    if walk.arrays and not walk.found_tensors:
        raise ValueError(
            f"holds NumPy arrays ({some(walk.arrays, 2)}) and no tensors; save torch.from_numpy(array) of each"
        )
    if walk.modules:
        contents.notes.append(f"the tensors of a whole {walk.modules[0]}")
    if walk.read_past:
        parts = [f"{place}, a {path}" if path else place for place, path in walk.read_past.items()]
        contents.notes.append(f"read past, with tensors in them: {some(parts, 4)}")
    return contents


def _items(value: Any) -> Mapping[Any, Any] | None:
    """Return the items of a dictionary, or of a record whose class is one."""
    if isinstance(value, Record):
        return value.entries or None
    return value if isinstance(value, Mapping) else None


def _members(record: Record) -> dict[Any, Any] | None:
    """Return what a pickled module saves, its tensors and modules; None for a record of another class."""
    state = record.state if isinstance(record.state, dict) else {}
    if not {"_parameters", "_buffers", "_modules"} <= state.keys():
        return None
    parameters, buffers, modules = [_items(state[part]) or {} for part in ("_parameters", "_buffers", "_modules")]
    unsaved = state.get("_non_persistent_buffers_set")
    unsaved = unsaved if isinstance(unsaved, set) else set()
    saved = {key: tensor for key, tensor in buffers.items() if key not in unsaved}
    return {key: value for key, value in {**parameters, **saved, **modules}.items() if value is not None}


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
    """The way through nested dictionaries, and what was met on it.

    Attributes:
        found_tensors: a dictionary holds one.
        closed_modules: a module was read past.
        modules: classes of those that were read as dictionaries.
        arrays: places of NumPy arrays.
        read_past: places of other values with tensors in them, and their classes.
    """

    def __init__(self, open_modules: bool) -> None:
        self._open_modules = open_modules
        self.found_tensors = self.closed_modules = False
        self.modules: list[str] = []
        self.arrays: list[str] = []
        self.read_past: dict[str, str] = {}
        self._copies: dict[int, tuple[dict[str, Any], int]] = {}
        self._size = 0

    def copy(self, value: Any, place: tuple[str, ...]) -> Any:
        """Copy dictionaries, those of classes of their own as plain ones; return any other value as it is."""
        items = _items(value)
        if items is None and isinstance(value, Record) and (members := _members(value)) is not None:
            self.closed_modules |= not self._open_modules
            if self._open_modules:
                items = members
                self.modules.append(value.path)
        if items is None:
            self._note(value, ".".join(place))
            return value
        known = self._copies.get(id(value))
        self._size += len(items) if known is None else known[1]
        if len(place) > _DEPTH or self._size > _SIZE:
            raise ValueError("contains itself, or more dictionaries in each other than a checkpoint has")
        if known is not None:
            return known[0]
        before = self._size - len(items)
        copied = {str(key): self.copy(item, (*place, str(key))) for key, item in items.items()}
        if isinstance(value, Record) and not value.entries:  # A module's names are joined by dots, as it saves them.
            copied = {
                name: item
                for key, part in copied.items()
                for name, item in (
                    {f"{key}.{k}": v for k, v in part.items()} if isinstance(part, dict) else {key: part}
                ).items()
            }
        if versions := getattr(value, "_metadata", None):
            copied = OrderedDict(copied)
            vars(copied)["_metadata"] = versions  # of the modules, by which torch's loading renames old tensors
        self._copies[id(value)] = copied, self._size - before
        return copied

    def _note(self, value: Any, name: str) -> None:
        """Note a value that is no dictionary."""
        if isinstance(value, Tensor):
            self.found_tensors = True
        elif isinstance(value, Record) and value.path in UNREADABLE and not name.startswith(_RECORDS_OF_A_RUN):
            kind, remedy = UNREADABLE[value.path]
            raise ValueError(f"holds {kind}, {name}; where it was saved, save {remedy} in its place")
        elif isinstance(value, Record | list | tuple) and holds_tensors(value):
            self.read_past[name] = value.path if isinstance(value, Record) else ""
        elif isinstance(value, Record) and value.path.endswith("multiarray._reconstruct"):
            self.arrays.append(name)
