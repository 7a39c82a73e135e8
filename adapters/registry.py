"""Registration with mmengine's root registries, asked for here alone and optional.

The families among which ``TimmAdapter`` chooses are listed in :mod:`adapters.factory`.

mmdet's and mmseg's registries are children of mmengine's root, so a class registered on the root is visible from both
scopes. Without mmengine the adapters work from Python, and only configs do not.
"""

from collections.abc import Callable
from typing import Any, TypeVar

try:
    from mmengine.registry import HOOKS, MODELS, OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, TRANSFORMS
except ModuleNotFoundError as error:
    if error.name != "mmengine":
        raise
    HOOKS = MODELS = OPTIM_WRAPPER_CONSTRUCTORS = OPTIM_WRAPPERS = TRANSFORMS = None

T = TypeVar("T", bound=Callable)

OPENMMLAB_REMEDY = (
    'install the maintained OpenMMLab line with `pip install "dense-adapters[openmmlab]"`, '
    "or run `make setup` in a clone"
)


def _register(registry: Any, target: T) -> T:
    if registry is not None:
        registry.register_module(module=target)
    return target


def register_model(target: T) -> T:
    """Register a backbone, neck or factory under its own name on the root ``MODELS``."""
    return _register(MODELS, target)


def register_transform(target: T) -> T:
    """Register a step of a data pipeline under its own name on the root ``TRANSFORMS``."""
    return _register(TRANSFORMS, target)


def register_hook(target: T) -> T:
    """Register a runner's hook under its own name on the root ``HOOKS``."""
    return _register(HOOKS, target)


def register_optim_wrapper(target: T) -> T:
    """Register an optimiser wrapper under its own name on the root ``OPTIM_WRAPPERS``."""
    return _register(OPTIM_WRAPPERS, target)


def register_optim_wrapper_constructor(target: T) -> T:
    """Register an optimiser-wrapper constructor under its own name on the root ``OPTIM_WRAPPER_CONSTRUCTORS``."""
    return _register(OPTIM_WRAPPER_CONSTRUCTORS, target)


def require_mmengine(purpose: str) -> None:
    """Say what to install when something that needs mmengine is asked for without it.

    Raises:
        ModuleNotFoundError: mmengine is not installed.
    """
    if MODELS is None:
        raise ModuleNotFoundError(f"{purpose} needs mmengine, which is not installed: {OPENMMLAB_REMEDY}.")
