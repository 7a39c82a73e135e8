"""A memory, from pass to pass, of values that depend on parameters alone."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.kernels.cpu import is_eager
from adapters.kernels.versions import autocast_dtype


@dataclass(frozen=True)
class _Kept:
    """A result, and the parameters that it was computed from.

    Attributes:
        parameters: aliases, which keep the memory from being given to another tensor.
        versions: how often each had been changed in place.
        contents: copies, on the CPU alone.
        result: what was computed.
    """

    parameters: list[Tensor]
    versions: list[int]
    contents: list[Tensor] | None
    result: Tensor

    def holds(self, parameters: Sequence[Tensor]) -> bool:
        if not all(
            parameter.data_ptr() == alias.data_ptr() and parameter._version == version
            for parameter, alias, version in zip(parameters, self.parameters, self.versions, strict=True)
        ):
            return False
        return self.contents is None or all(map(torch.equal, self.contents, parameters))


class Memo:
    """A memory of values computed from parameters, in inference, until the parameters change.

    A parameter has changed where it is other memory, or where torch has counted a change to it in place. Edits
    through ``parameter.data``, which torch does not count (mmengine's EMA swaps weights that way), are found by
    comparing contents on the CPU; elsewhere that would make the host wait, so the owner calls :meth:`clear` whenever
    the mode is set, which mmengine's loops do after every such swap.
    """

    def __init__(self, limit: int = 4) -> None:
        self._limit = limit
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, parameters: Sequence[Tensor], compute: Callable[[], Tensor]) -> Tensor:
        """Return ``compute()``, of any shape, or its earlier result for the same key and unchanged parameters.

        Args:
            key: whatever else the result depends on.
            parameters: all that ``compute`` reads.
            compute: makes the result.
        """
        if torch.is_grad_enabled() or not is_eager():
            return compute()
        if any(parameter.is_inference() for parameter in parameters):
            return compute()  # torch counts no changes to these
        key = (key, autocast_dtype(parameters[0].device.type))
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None:
                self._kept.move_to_end(key)
        if kept is not None and kept.holds(parameters):
            return kept.result
        result = compute()
        aliases = [parameter.detach() for parameter in parameters]
        contents = [alias.clone() for alias in aliases] if aliases[0].device.type == "cpu" else None
        new = _Kept(aliases, [parameter._version for parameter in parameters], contents, result)
        with self._lock:
            self._kept[key] = new
            self._kept.move_to_end(key)
            while len(self._kept) > self._limit:
                self._kept.popitem(last=False)
        return result

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._kept.clear()

    def __deepcopy__(self, memo: dict[int, object]) -> "Memo":
        """Return an empty memory: a copy of a model has parameters of its own."""
        return Memo(self._limit)

    def __reduce__(self) -> tuple[type["Memo"], tuple[int]]:
        return Memo, (self._limit,)
