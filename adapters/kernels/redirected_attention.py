"""Calls of torch's attention, wherever they are made, handed to another function."""

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch.overrides import TorchFunctionMode


class RedirectedAttention(TorchFunctionMode):
    """A context in which calls of torch's attention become calls of another function.

    Args:
        attend: takes what ``torch.nn.functional.scaled_dot_product_attention`` takes, and may call that.
    """

    def __init__(self, attend: Callable[..., Any]) -> None:
        super().__init__()
        self.attend = attend

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        return (self.attend if func is F.scaled_dot_product_attention else func)(*args, **(kwargs or {}))
