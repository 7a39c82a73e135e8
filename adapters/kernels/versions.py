"""Parts of torch that newer releases have, and what takes their place in older ones, down to torch 2.1."""

from collections.abc import Callable
from typing import Any

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
    if not is_autocast_available(device_type):
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


if hasattr(torch.library, "custom_op"):  # torch 2.4
    custom_op: Callable[..., Any] = torch.library.custom_op
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
    "is_in_torch_dispatch_mode",
]
