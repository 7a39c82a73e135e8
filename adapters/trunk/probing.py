"""Runs of a model on tensors without data, to learn what it does before any image is seen.

Tensors on the meta device carry shapes, dtypes and the autograd graph, and so do those of ``FakeTensorMode``; neither
computes anything: a probe of a large model takes about a second at most, and no memory to speak of.
"""

import copy
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

M = TypeVar("M", bound=nn.Module)

#: Errors raised where a tensor has no data (then FakeTensorMode is tried), and also at sizes that a model cannot take;
#: any other is a bug in the model's code.
NO_DATA_ERRORS = (RuntimeError, TypeError, ValueError, AssertionError)


def probe(
    module: M,
    forward: Callable[[M, Tensor], Sequence[Tensor]],
    shape: tuple[int, ...],
    real: bool = False,
    training: bool = False,
) -> list[Tensor]:
    """Return ``forward(module, image)`` for an image of ``shape``, such as ``(B, C, H, W)``, with gradients.

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
        with suppress(*NO_DATA_ERRORS), torch.enable_grad():
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
    """Find the identities of the parameters that a gradient of :func:`probe`'s outputs, of any shape, would reach."""
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
