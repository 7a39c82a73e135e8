"""The parts of newer releases of torch, and what takes their place in older ones, down to torch 2.1: all of them."""

import typing
from collections.abc import Callable, Sequence
from typing import Any, get_args, get_origin

import torch
import torch.nn.modules.module as modules
from torch.utils import _python_dispatch

if hasattr(_python_dispatch, "is_in_torch_dispatch_mode"):  # torch 2.5
    is_in_torch_dispatch_mode: Callable[[], bool] = _python_dispatch.is_in_torch_dispatch_mode
else:

    def is_in_torch_dispatch_mode() -> bool:
        """Tell whether a mode sees each operator, such as one that counts or traces them."""
        return _python_dispatch._get_current_dispatch_mode() is not None


if hasattr(torch.amp, "is_autocast_available"):  # torch 2.4
    is_autocast_available: Callable[[str], bool] = torch.amp.is_autocast_available
else:

    def is_autocast_available(device_type: str) -> bool:
        """Tell whether a kind of device has autocast."""
        return device_type in ("cpu", "cuda")


def autocast_dtype(device_type: str) -> torch.dtype | None:
    """Return the dtype of autocast on a kind of device, and None where it is off or there is none."""
    if device_type == "meta":  # nothing else is asked: torch.compile cannot trace is_autocast_available
        return None
    if hasattr(torch, "get_autocast_dtype"):  # torch 2.4
        return torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else None
    if device_type == "cpu":
        return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None
    return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None


if hasattr(torch.compiler, "is_compiling"):  # torch 2.3
    is_compiling: Callable[[], bool] = torch.compiler.is_compiling
else:

    def is_compiling() -> bool:
        """Tell whether torch.compile traces the present pass."""
        return torch._dynamo.is_compiling()


if hasattr(torch.compiler, "is_exporting"):  # torch 2.7

    def is_exporting() -> bool:
        """Tell whether torch.export traces the present pass; torch.compile, which answers the same, does not count."""
        return torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling()

else:

    def is_exporting() -> bool:
        """Tell whether torch.export traces the present pass; exports need a newer torch."""
        return False


if hasattr(modules, "_has_any_global_hook"):  # torch 2.2
    has_global_hook: Callable[[], bool] = modules._has_any_global_hook
else:

    def has_global_hook() -> bool:
        """Tell whether every module has a hook."""
        return bool(
            modules._global_backward_pre_hooks
            or modules._global_backward_hooks
            or modules._global_forward_hooks
            or modules._global_forward_pre_hooks
        )


if hasattr(torch._C, "_are_functorch_transforms_active"):  # torch 2.3
    are_transforms_active: Callable[[], bool] = torch._C._are_functorch_transforms_active
else:

    def are_transforms_active() -> bool:
        """Tell whether a transform of torch.func is active."""
        return torch._C._functorch.peek_interpreter_stack() is not None


def spell_sequences(function: Callable) -> Callable:
    """Annotate a function's sequences as torch before 2.6 reads them in operators; return the function."""
    sequence: Any = typing.Sequence
    for argument, kind in function.__annotations__.items():
        if get_origin(kind) is Sequence:
            function.__annotations__[argument] = sequence[get_args(kind)]
    return function


if hasattr(torch.library, "custom_op"):  # torch 2.4

    def custom_op(name: str, mutates_args: tuple[str, ...]) -> Callable[[Callable], Any]:
        """Make a function one of torch's operators."""
        return lambda function: torch.library.custom_op(name, spell_sequences(function), mutates_args=mutates_args)

else:

    def custom_op(name: str, mutates_args: tuple[str, ...]) -> Callable[[Callable], Any]:  # noqa: ARG001
        """Make a function that torch.compile calls and does not look into; the graph ends before it."""

        def decorate(function: Callable) -> Any:
            operator = torch.compiler.disable(function)
            operator.register_fake = lambda fake: fake
            operator.register_autograd = lambda *_, **__: None  # autograd looks into the function
            return operator

        return decorate


__all__ = [
    "are_transforms_active",
    "autocast_dtype",
    "custom_op",
    "has_global_hook",
    "is_autocast_available",
    "is_compiling",
    "is_exporting",
    "is_in_torch_dispatch_mode",
]
