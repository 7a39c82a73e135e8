"""Running a model on tensors without data, to learn what it does before any image is seen.

Tensors on the meta device carry shapes, dtypes and the autograd graph, and so do those of ``FakeTensorMode``; neither
computes anything: a probe of a large model takes about a second at most, and no memory to speak of.
"""

import copy
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

M = TypeVar("M", bound=nn.Module)

#: What torch and numpy raise where a tensor has no data or stands on another device, and also at sizes that a model
#: cannot take; other exceptions are of the model's own code, and the same in any mode.
MAY_BE_OF_THE_DEVICE = (RuntimeError, TypeError, ValueError, AssertionError)


def probe(
    module: M,
    forward: Callable[[M, Tensor], Sequence[Tensor]],
    shape: tuple[int, ...],
    real: bool = False,
    training: bool = False,
) -> list[Tensor]:
    """What ``forward(module, image)`` returns for an image of ``shape``, with gradients.

    The module runs as a copy, so that nothing it caches in passing stays.

    Args:
        module: not changed.
        forward: what to run.
        shape: of the image.
        real: with data, for models whose shapes depend on values.
        training: in train mode, else in eval mode.

    Returns:
        Tensors without data (unless ``real``), for :func:`parameters_behind`.
    """
    if not real:
        # Several times faster than FakeTensorMode; but a model that makes tensors on the CPU fails here, and then that
        # mode has the last word: it gives the maps, or raises what is wrong.
        with suppress(*MAY_BE_OF_THE_DEVICE), torch.enable_grad():
            return list(forward(_copy(module, _without_data, training), torch.zeros(shape, device="meta")))
    twin = _copy(module, lambda tensor: tensor, training)
    with nullcontext() if real else _fake_mode(), torch.enable_grad():
        return list(forward(twin, torch.zeros(shape)))


@contextmanager
def _fake_mode() -> Iterator[None]:
    """FakeTensorMode without its traceback in the log of what it raises anyway, at sizes that are but tried."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            yield
    finally:
        log.setLevel(level)


def _copy(module: M, convert: Callable[[Tensor], Tensor], training: bool) -> M:
    tensors = chain(module.parameters(), module.buffers())
    return copy.deepcopy(module, {id(tensor): convert(tensor) for tensor in tensors}).train(training)


def _without_data(tensor: Tensor) -> Tensor:
    blank: Any = torch.empty_like(tensor, device="meta")
    if isinstance(tensor, nn.Parameter):
        blank = nn.Parameter(blank, requires_grad=tensor.requires_grad)
    blank.stands_for = tensor
    return blank


def parameters_behind(outputs: Iterable[Tensor]) -> set[int]:
    """Identities of the module's parameters that a gradient of what :func:`probe` gave would reach."""
    found: set[int] = set()
    visited = set()
    pending = [output.grad_fn for output in outputs if output.grad_fn is not None]
    while pending:
        node = pending.pop()
        if node in visited:
            continue
        visited.add(node)
        if (leaf := getattr(node, "variable", None)) is not None:
            found.add(id(getattr(leaf, "stands_for", leaf)))
        pending += [following for following, _ in node.next_functions if following is not None]
    return found


@contextmanager
def everything_trainable(module: nn.Module) -> Iterator[None]:
    """Let gradients reach the parameters that are fixed, too, so that they can be seen to have a part or none."""
    fixed = [p for p in module.parameters() if not p.requires_grad and p.is_floating_point()]
    for parameter in fixed:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in fixed:
            parameter.requires_grad_(False)


@dataclass
class Removal:
    """What has no part in a module's outputs, by name.

    Attributes:
        modules: submodules that become an Identity.
        parameters: single parameters that become None.
        frozen: parameters that the forward pass touches all the same, without effect: they stay, and are frozen.
    """

    modules: list[str] = field(default_factory=list)
    parameters: list[str] = field(default_factory=list)
    frozen: list[str] = field(default_factory=list)

    def apply(self, module: nn.Module) -> None:
        """Change a module of the same structure as the one that this was found for, in place."""
        for name in self.modules:
            parent, attribute = _parent_of(module, name)
            setattr(parent, attribute, nn.Identity())
        for name in self.parameters:
            parent, attribute = _parent_of(module, name)
            setattr(parent, attribute, None)
        for name in self.frozen:
            module.get_parameter(name).requires_grad_(False)


def remove_unused(module: nn.Module, used: set[int], still_runs: Callable[[], bool]) -> Removal:
    """Take out of ``module`` the parameters that have no part in its outputs.

    A submodule none of whose parameters is used becomes an Identity, a single parameter None. Where the forward pass
    touches one all the same, without its having an effect, it stays and is frozen.

    Args:
        module: changed in place.
        used: what :func:`parameters_behind` found.
        still_runs: says whether the forward pass works after a removal.

    Returns:
        What was done, to do it to others.
    """
    done = Removal()
    for name, child in _unused_submodules(module, used):
        parent, attribute = _parent_of(module, name)
        setattr(parent, attribute, nn.Identity())
        if still_runs():
            done.modules.append(name)
            continue
        setattr(parent, attribute, child)
        child.requires_grad_(False)
        done.frozen += [f"{name}.{own}" for own, _ in child.named_parameters()]
    for name, parameter in list(module.named_parameters()):
        if id(parameter) in used or name in done.frozen:
            continue
        parent, attribute = _parent_of(module, name)
        setattr(parent, attribute, None)
        if still_runs():
            done.parameters.append(name)
            continue
        setattr(parent, attribute, parameter.requires_grad_(False))
        done.frozen.append(name)
    return done


def _unused_submodules(module: nn.Module, used: set[int]) -> list[tuple[str, nn.Module]]:
    """The largest submodules with parameters of which none is used."""
    found: list[tuple[str, nn.Module]] = []
    for name, child in module.named_modules():
        inside = any(name == outer or name.startswith(f"{outer}.") for outer, _ in found)
        parameters = [id(parameter) for parameter in child.parameters()]
        if name and not inside and parameters and used.isdisjoint(parameters):
            found.append((name, child))
    return found


def _parent_of(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, attribute = name.rpartition(".")
    return module.get_submodule(path), attribute
