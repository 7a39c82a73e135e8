"""Keeping what depends on parameters alone from one forward pass to the next, while they stay what they were."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode


@dataclass(frozen=True)
class _Kept:
    """A result, and what its parameters were.

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


class Reuse:
    """A small memory for results of small networks, in passes without gradients.

    A result is used again while its parameters are the same memory and torch has counted no change to them. Edits
    through ``parameter.data``, which torch does not count (mmengine's EMA swaps weights that way), are found by
    comparing contents on the CPU; elsewhere that would make the host wait, so the owner calls :meth:`clear` whenever
    the mode is set, which mmengine's loops do after every such swap.
    """

    def __init__(self, limit: int = 4) -> None:
        self._limit = limit
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()

    def get(self, key: Hashable, parameters: Sequence[Tensor], compute: Callable[[], Tensor]) -> Tensor:
        """``compute()``, or its result of an earlier call with the same key and unchanged parameters.

        Args:
            key: whatever else the result depends on.
            parameters: all that ``compute`` reads.
            compute: makes the result.
        """
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or is_in_torch_dispatch_mode():
            return compute()
        if any(parameter.is_inference() for parameter in parameters):
            return compute()  # torch counts no changes to these
        device = parameters[0].device.type
        autocast = device != "meta" and torch.is_autocast_enabled(device)
        key = (key, autocast and torch.get_autocast_dtype(device))
        kept = self._kept.get(key)
        if kept is not None and kept.holds(parameters):
            self._kept.move_to_end(key)
            return kept.result
        result = compute()
        aliases = [parameter.detach() for parameter in parameters]
        contents = [alias.clone() for alias in aliases] if aliases[0].device.type == "cpu" else None
        self._kept[key] = _Kept(aliases, [parameter._version for parameter in parameters], contents, result)
        while len(self._kept) > self._limit:
            self._kept.popitem(last=False)
        return result

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()

    def __deepcopy__(self, memo: dict[int, object]) -> "Reuse":
        """A copy of a model has parameters of its own, and starts afresh."""
        return Reuse(self._limit)

    def __reduce__(self) -> tuple[type["Reuse"], tuple[int]]:
        return Reuse, (self._limit,)
