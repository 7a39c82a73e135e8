"""Necks and heads that pass over what lies beyond each image of a batch, for the time of a model's call.

A backbone with ``batch_padding='exact'`` gives maps that are zero beyond each image. A convolution's bias fills these
cells, the next convolution reads them, and group norms count them. So convolutions read zeros beyond each image, as at
the border of an image alone; group norms count an image's own cells; and what enlarges a map repeats an image's own
border. Batch norms mix images by intent, and stay as they are.
"""

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapters.base import BackboneAdapter
from adapters.batches import Sizes, sizes_of_call

#: The child of a detector whose maps are of regions, so that their batch does not count images.
_OF_REGIONS = "roi_head"

#: Those of the present call, which are each thread's own.
_cells: ContextVar["_OwnCells | None"] = ContextVar("cells", default=None)
#: Of the layers' forwards, which all threads share.
_lock = threading.Lock()


@contextmanager
def own_cells(model: nn.Module) -> Iterator[None]:
    """Have a model's necks and heads pass over what lies beyond the images that its backbone has got last.

    Args:
        model: of mmdet or mmseg; heads of regions are left as they are.
    """
    cells = _OwnCells()
    token = _cells.set(cells)
    with ExitStack() as stack:
        stack.callback(_cells.reset, token)
        for layer in _layers(model):
            if isinstance(layer, BackboneAdapter):
                handle = layer.register_forward_pre_hook(cells.learn_sizes, with_kwargs=True)
                stack.callback(handle.remove)
            elif apply := _way_of(layer):
                _replace_forward(layer, apply)
                stack.callback(_put_back_forward, layer)
        yield


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    """Go through a model's backbones, and the layers outside of them and of heads of regions."""
    for name, child in module.named_children():
        if name != _OF_REGIONS:
            yield child
            if not isinstance(child, BackboneAdapter):
                yield from _layers(child)


class _ForwardOnOwnCells:
    """The forward of a layer for the time of calls of its model, several in several threads.

    Args:
        forward: the layer's.
        apply: how the layer is applied to the cells of a call.
        replaces_own: the layer's forward is not that of its class: another library has replaced it.
    """

    def __init__(self, forward: Callable[..., Any], apply: Callable[..., Any], replaces_own: bool) -> None:
        self.forward = forward
        self.apply = apply
        self.calls = 0
        self.replaces_own = replaces_own

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        cells = _cells.get()
        if cells is None:
            return self.forward(*arguments, **options)
        return self.apply(cells, self.forward, *arguments, **options)


def _replace_forward(layer: nn.Module, apply: Callable[..., Any]) -> None:
    with _lock:
        if not isinstance(layer.forward, _ForwardOnOwnCells):
            layer.forward = _ForwardOnOwnCells(layer.forward, apply, "forward" in vars(layer))
        layer.forward.calls += 1


def _put_back_forward(layer: Any) -> None:
    """Give a layer the forward that it had, when the last call ends."""
    with _lock:
        replaced = layer.forward
        replaced.calls -= 1
        if not replaced.calls and replaced.replaces_own:
            layer.forward = replaced.forward
        elif not replaced.calls:
            del layer.forward


class _OwnCells:
    """The cells of maps that belong to the images of a batch, and ways to apply a layer to these alone."""

    def __init__(self) -> None:
        self._sizes: Sizes = []
        self._padded = (0, 0)
        self._found: dict[Any, Tensor] = {}

    def learn_sizes(self, backbone: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Any]) -> None:  # noqa: ARG002
        """Learn the sizes of the images ``(B, C, H, W)`` that a backbone gets; the maps that follow are theirs."""
        if _cells.get() is self:  # and not of another thread
            images = inputs[0]
            self._sizes = named.get("sizes") or sizes_of_call(images)
            self._padded = (images.shape[-2], images.shape[-1])
            self._found.clear()

    def clear(self, convolution: Callable[..., Any], maps: Tensor, *arguments: Any, **options: Any) -> Any:
        """Apply a convolution to maps ``(B, C, H, W)`` with zeros beyond each image."""
        if self._count(maps) is not None:
            maps = maps.masked_fill(self._beyond(maps), 0)
        return convolution(maps, *arguments, **options)

    def apply_to_each(self, layer: Callable[[Tensor], Tensor], maps: Tensor, scale: float = 1.0) -> Tensor:
        """Apply a norm, or what enlarges maps, to each image's own cells of ``(B, C, H, W)``; the others are zero."""
        counts = self._count(maps)
        if counts is None:
            return layer(maps)
        height, width = (int(side * scale) for side in maps.shape[-2:])
        images = (image[..., :rows, :columns] for image, (rows, columns) in zip(maps.split(1), counts, strict=True))
        results = (layer(image) for image in images)
        return torch.cat([F.pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2])) for x in results])

    def _count(self, maps: Tensor) -> list[tuple[int, int]] | None:
        """Return each image's rows and columns in maps ``(B, C, H / s, W / s)``, or None where all fill them.

        Maps whose sides are not those of a stride ``s`` that is a power of two, rounded up, are of no images.
        """
        if maps.ndim != 4 or len(maps) != len(self._sizes):
            return None
        shape, stride = tuple(maps.shape[-2:]), 1
        while stride < max(self._padded) and _divide(self._padded, stride) != shape:
            stride *= 2
        if _divide(self._padded, stride) != shape:
            return None
        counts = [_divide(size, stride) for size in self._sizes]
        return None if all(count == shape for count in counts) else counts

    def _beyond(self, maps: Tensor) -> Tensor:
        """Return which cells of maps are no image's own, ``(B, 1, H, W)``."""
        key = (maps.shape[-2:], maps.device)
        if key not in self._found:
            beyond = torch.ones(len(maps), 1, *maps.shape[-2:], dtype=torch.bool)
            for image, (rows, columns) in zip(beyond, self._count(maps) or [], strict=True):
                image[:, :rows, :columns] = False
            self._found[key] = beyond.to(maps.device)
        return self._found[key]


def _way_of(layer: nn.Module) -> Callable[..., Any] | None:
    """Return how a layer is applied to own cells, or None where nothing is to be done."""
    if isinstance(layer, nn.GroupNorm):
        return _OwnCells.apply_to_each
    scale = getattr(layer, "scale_factor", None)  # of torch's Upsample, and mmseg's
    if isinstance(scale, float) and hasattr(layer, "mode"):
        return functools.partial(_OwnCells.apply_to_each, scale=scale)
    kernel = getattr(layer, "kernel_size", 1)  # of torch's convolutions, and mmcv's
    reads_neighbours = max(kernel if isinstance(kernel, tuple) else (kernel,)) > 1
    return _OwnCells.clear if reads_neighbours and hasattr(layer, "in_channels") else None


def _divide(size: tuple[int, int], stride: int) -> tuple[int, int]:
    return -(-size[0] // stride), -(-size[1] // stride)
