"""One trunk at every image size, for models that timm builds for a single one.

timm says itself what a size changes: the same model, built twice without memory, differs in some numbers (a grid, a
window), some index buffers and the shapes of some positional tables, and in nothing else. A :class:`SizedTrunk` lays
these differences over the trunk: modules that differ, and those that contain them, are replaced by shallow copies; all
others, and all parameters of equal shape, are the trunk's own. Tables of another shape are resampled from the trunk's
parameter in every call, so that gradients reach it and nothing is ever stale.
"""

import copy
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import is_autocast_available

from adapters.any_size.positions import Resampling, resampling_of
from adapters.kernels.cpu import is_eager

Size = tuple[int, int]

#: Attributes that say nothing about what a module computes: those of every module, and timm's records of its arguments.
_OF_ANY_MODULE = frozenset(vars(nn.Module())) | {"_traits", "_model_args"}

#: Sizes remembered at once, and what their index buffers and resampled tables may take together.
MAX_SIZES = 32
MAX_BYTES = 512 << 20


@dataclass
class Change:
    """Changes that a size makes to one module."""

    attributes: dict[str, Any] = field(default_factory=dict)
    buffers: dict[str, Tensor] = field(default_factory=dict)
    tables: dict[str, Resampling] = field(default_factory=dict)
    table_bytes: int = 0

    def __bool__(self) -> bool:
        return bool(self.attributes or self.buffers or self.tables)


class SizedTrunk:
    """Views of a trunk, each as timm would build it for another image size.

    Args:
        build_at_size: builds timm's model for a size, on the ``meta`` device; can be pickled.
        native: ``(H, W)``, the size that the trunk was built for.

    Raises:
        ValueError: timm cannot build the model for other sizes, or a parameter has no meaning at another size.
    """

    def __init__(self, build_at_size: Callable[[Size], nn.Module], native: Size) -> None:
        self._start(build_at_size, native)

    def _start(self, build_at_size: Callable[[Size], nn.Module], native: Size) -> None:
        """Begin without any size."""
        self._build_at_size = build_at_size
        self._native = native
        self._original: nn.Module | None = None
        self._changes: OrderedDict[Size, dict[str, Change]] = OrderedDict()
        self._lock = threading.RLock()
        self._of_thread = threading.local()

    def __deepcopy__(self, memo: dict[int, Any]) -> "SizedTrunk":
        """A copy has a trunk of its own, and so views of its own; what a size changes is the same."""
        twin = copy.copy(self)  # through __getstate__, which leaves the views out
        with self._lock:
            twin._original, twin._changes = self._original, self._changes.copy()
        memo[id(self)] = twin
        return twin

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the changes that sizes make; they are worked out anew where it is unpickled."""
        return {"_build_at_size": self._build_at_size, "_native": self._native}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Begin anew."""
        self._start(state["_build_at_size"], state["_native"])

    def differs_at(self, size: Size) -> bool:
        """Tell whether timm builds another model for this size.

        Raises:
            ValueError: it does, and a parameter has no meaning there.
        """
        return bool(self._changes_at(size))

    @torch.compiler.disable
    def at(self, trunk: nn.Module, size: Size) -> Any:
        """Return the trunk for images of exactly this size, up to date with its parameters, mode and device.

        It is valid until the next call for the same size in the same thread: each thread has views of its own.
        """
        size = (int(size[0]), int(size[1]))
        with self._lock:
            changes = self._changes_at(size)
            known = set(self._changes)
        views: dict[Size, _View] = self._of_thread.__dict__.setdefault("views", {})
        for forgotten in views.keys() - known:
            del views[forgotten]
        view = views.get(size)
        if view is None or view.trunk is not trunk or view.changes is not changes:
            view = views[size] = _View(trunk, changes)
        return view.refreshed()

    def _changes_at(self, size: Size) -> dict[str, Change]:
        if size not in self._changes:
            # In a thread of its own, nothing of the present pass takes part: no inference mode, no fake tensors, no
            # transform of torch.func, whose tensors do not outlive it.
            with ThreadPoolExecutor(max_workers=1) as executor:
                self._changes[size] = executor.submit(self._find_changes, size).result()
        self._changes.move_to_end(size)
        while len(self._changes) > 1 and (len(self._changes) > MAX_SIZES or self._bytes() > MAX_BYTES):
            self._changes.popitem(last=False)
        return self._changes[size]

    def _find_changes(self, size: Size) -> dict[str, Change]:
        # A size that is new in the middle of training must not shift the random numbers that follow.
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            if self._original is None:
                self._original = self._build_at_size(self._native)
            return dict(compare(self._original, self._build_at_size(size), self._native, size))

    def _bytes(self) -> int:
        """Count what the sizes hold on to; a view keeps the tables of its last pass."""
        every = [change for changes in self._changes.values() for change in changes.values()]
        buffers = {id(buffer): buffer.nbytes for change in every for buffer in change.buffers.values()}
        return sum(buffers.values()) + sum(change.table_bytes for change in every)


class _View:
    """Shallow copies of the modules that a size changes and of those around them."""

    def __init__(self, trunk: nn.Module, changes: dict[str, Change]) -> None:
        self.trunk = trunk
        self.changes = changes
        self.moved: dict[int, Tensor] = {}
        paths = {""}
        for name in changes:
            parts = name.split(".")
            paths.update(".".join(parts[:depth]) for depth in range(1, len(parts) + 1))
        # Some have been pruned since.
        self.clones = {path: nn.Module() for path, _ in trunk.named_modules() if path in paths}

    def refreshed(self) -> nn.Module:
        """Take over the trunk as it is by now: its parameters, modes, hooks, and converted norms."""
        for path, clone in self.clones.items():
            original = self.trunk.get_submodule(path) if path else self.trunk
            clone.__class__ = type(original)
            state = vars(original).copy()
            state["_parameters"] = original._parameters.copy()
            state["_buffers"] = original._buffers.copy()
            state["_modules"] = {
                name: self.clones.get(f"{path}.{name}" if path else name, child)
                for name, child in original._modules.items()
            }
            if path in self.changes:
                self._lay_over(state, self.changes[path])
            vars(clone).clear()
            vars(clone).update(state)
        return self.clones[""]

    def _lay_over(self, state: dict[str, Any], change: Change) -> None:
        """Put a change into a module's attributes; what pruning has taken out stays out."""
        state.update(change.attributes)
        for name, buffer in change.buffers.items():
            own = state["_buffers"].get(name)
            state["_buffers"][name] = buffer if own is None else self._moved_like(buffer, own)
        for name, resample in change.tables.items():
            # In a replica of DataParallel's, parameters are ordinary attributes.
            table = state["_parameters"].pop(name, state.get(name))
            if table is None:
                state[name] = None
                continue
            with _without_autocast(table.device.type):
                state[name] = resample(table)

    def _moved_like(self, buffer: Tensor, own: Tensor) -> Tensor:
        """Give a buffer the device and dtype of the trunk's own, once; buffers that modules share stay shared."""
        moved = self.moved.get(id(buffer), buffer)
        if (moved.device, moved.dtype) != (own.device, own.dtype):
            with torch.inference_mode(False):
                moved = buffer.to(own)
            if is_eager():
                self.moved[id(buffer)] = moved
        return moved


def _without_autocast(device_type: str) -> AbstractContextManager:
    return torch.autocast(device_type, enabled=False) if is_autocast_available(device_type) else nullcontext()


def compare(native: nn.Module, sized: nn.Module, native_size: Size, size: Size) -> Iterator[tuple[str, Change]]:
    """Find the differences of a model built for another size, module by module.

    Raises:
        ValueError: a parameter has another shape there that is not a positional table's.
    """
    modules = dict(sized.named_modules())
    known: dict[Any, dict[str, Tensor]] = {}
    for name, old in native.named_modules():
        new = modules[name]
        assert type(new) is type(old), f"{name} is another kind of module at {size}"
        change = Change()
        for key, value in vars(new).items():
            if key not in _OF_ANY_MODULE and _is_constant(value) and value != vars(old).get(key):
                change.attributes[key] = value
        for key, parameter in new._parameters.items():
            before = old._parameters[key]
            if parameter is not None and before is not None and parameter.shape != before.shape:
                change.tables[key] = resampling_of(f"{name}.{key}".lstrip("."), key, old, new, native_size, size)
                change.table_bytes += parameter.nbytes
        if any(_differs(buffer, old._buffers[key]) for key, buffer in new._buffers.items()):
            change.buffers = _computed_buffers(new, known)
        if change:
            yield name, change


def _differs(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and one.shape != other.shape


def _computed_buffers(module: nn.Module, known: dict[Any, dict[str, Tensor]]) -> dict[str, Tensor]:
    """Compute the values of a module's own buffers, shared among modules that are alike."""
    constants = {key: value for key, value in vars(module).items() if key not in _OF_ANY_MODULE and _is_constant(value)}
    shapes = {key: tuple(b.shape) for key, b in module._buffers.items() if b is not None}
    kind = (type(module), repr(sorted(constants.items())), repr(shapes))
    if kind not in known:
        for key, buffer in module._buffers.items():
            if buffer is not None and buffer.is_meta:
                module._buffers[key] = torch.empty_like(buffer, device="cpu")
        if (compute := getattr(module, "init_non_persistent_buffers", None)) is not None:
            compute()
        known[kind] = {key: buffer for key, buffer in module._buffers.items() if buffer is not None}
    return known[kind]


def _is_constant(value: Any) -> bool:
    if isinstance(value, dict):
        return bool(value) and all(_is_constant(item) for item in (*value, *value.values()))
    if isinstance(value, tuple | list):
        return all(_is_constant(item) for item in value)
    return value is None or isinstance(value, int | float | bool | str)
