"""Batches of images of several sizes: each image is computed at its own size, and the batch's padding reaches no map.

Sizes come as an argument, or from the call of a model that ``batch_sizes`` surrounds. That is a context variable, which
ends with the call and is each thread's own.
"""

import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapters.levels import Level

#: The height and width of each image of a batch, in pixels.
Sizes = Sequence[tuple[int, int]]

_known: ContextVar[tuple[tuple[Tensor, Sizes], ...]] = ContextVar("known", default=())
_others_are_whole: ContextVar[bool] = ContextVar("others_are_whole", default=False)


def run_by_size(
    run: Callable[[Tensor], tuple[Tensor, ...]],
    images: Tensor,
    sizes: Sizes,
    levels: Sequence[Level],
    multiple: int,
) -> tuple[Tensor, ...]:
    """Run images without the padding of their batch, those together that ``run`` pads to the same size.

    Args:
        run: pads images to a multiple and computes their maps, ``(B, C, H, W)`` ->
            ``(B, C_i, ceil(H / s_i), ceil(W / s_i))`` for each level.
        images: ``(B, C, H, W)``, padded right and bottom.
        sizes: ``(h, w)`` of each image.
        levels: the level of each map.
        multiple: the number of pixels to a multiple of which ``run`` pads.

    Returns:
        Contiguous ``(B, C_i, ceil(H / s_i), ceil(W / s_i))``, zero beyond each image's ``ceil(h / s_i)`` rows and
        ``ceil(w / s_i)`` columns.

    Raises:
        ValueError: the sizes are not one for each image, or not within the batch.
    """
    sizes = check_sizes(sizes, images)
    whole = (images.shape[-2], images.shape[-1])
    if all(size == whole for size in sizes):
        return run(images)
    groups: dict[tuple[int, int], list[int]] = {}
    for index, size in enumerate(sizes):
        groups.setdefault(_round_up(size, multiple), []).append(index)
    rows: list[dict[int, Tensor]] = [{} for _ in levels]
    for padded, indices in groups.items():
        maps = run(torch.cat([_keep_and_pad(images[index : index + 1], sizes[index], padded) for index in indices]))
        for feature_map, level, row in zip(maps, levels, rows, strict=True):
            for image_map, index in zip(feature_map.split(1), indices, strict=True):
                cells, all_cells = _count_cells(sizes[index], level.stride), _count_cells(whole, level.stride)
                row[index] = _keep_and_pad(image_map, cells, all_cells)
    return tuple(torch.cat([row[index] for index in range(len(sizes))]) for row in rows)


def _round_up(size: tuple[int, int], multiple: int) -> tuple[int, int]:
    rows, columns = _count_cells(size, multiple)
    return rows * multiple, columns * multiple


def _count_cells(size: tuple[int, int], stride: int) -> tuple[int, int]:
    return -(-size[0] // stride), -(-size[1] // stride)


def _keep_and_pad(x: Tensor, size: tuple[int, int], padded: tuple[int, int]) -> Tensor:
    """Keep the upper left of ``(B, C, H, W)`` and pad it with zeros, ``(B, C, *padded)``."""
    return F.pad(x[..., : size[0], : size[1]], (0, padded[1] - size[1], 0, padded[0] - size[0]))


def check_sizes(sizes: Sizes, images: Tensor) -> list[tuple[int, int]]:
    """Return the sizes of a batch's images, ``(B, C, H, W)``, as pairs of plain integers.

    Raises:
        ValueError: they are not a pair of positive integers for each image, or larger than the batch.
    """
    count, (height, width) = len(images), images.shape[-2:]
    try:
        pairs = [tuple(operator.index(side) for side in size) for size in sizes]
    except TypeError:
        pairs = []
    if len(pairs) != count or any(len(pair) != 2 or min(pair) < 1 for pair in pairs):
        raise ValueError(f"sizes={sizes} must be a pair (h, w) of positive integers for each of the {count} images.")
    if large := [pair for pair in pairs if pair[0] > height or pair[1] > width]:
        raise ValueError(f"an image of {large[0][0]} x {large[0][1]} cannot lie in a batch of {height} x {width}.")
    return [(pair[0], pair[1]) for pair in pairs]


def check_batch_norms(model: nn.Module) -> None:
    """Refuse norms that wait for other processes, which make another number of passes over groups of equal size.

    Raises:
        ValueError: a ``SyncBatchNorm`` of the model is in training mode, and there are several processes.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        waiting = any(isinstance(module, nn.SyncBatchNorm) and module.training for module in model.modules())
        if waiting and torch.distributed.get_world_size() > 1:
            raise ValueError(
                "batches with sizes make a pass for each size, and SyncBatchNorm waits for the other processes in each:"
                " set norm_eval=True, or train without SyncBatchNorm."
            )


@contextmanager
def batch_sizes(*batches: tuple[Tensor, Sizes], others_are_whole: bool = False) -> Iterator[None]:
    """Tell adapters of the sizes of images for the time of a call.

    Args:
        batches: tensors of images, ``(B, C, H, W)``, each with the sizes of its images.
        others_are_whole: in other tensors, each image fills the tensor.
    """
    known = _known.set(_known.get() + batches)
    whole = _others_are_whole.set(others_are_whole)
    try:
        yield
    finally:
        _others_are_whole.reset(whole)
        _known.reset(known)


def sizes_of_call(images: Tensor) -> Sizes:
    """Return the sizes that surrounding :func:`batch_sizes` give to this very tensor, ``(B, C, H, W)``.

    Raises:
        ValueError: they do not know it.
    """
    for batch, sizes in reversed(_known.get()):
        if batch is images:
            return sizes
    if _others_are_whole.get():
        return [(images.shape[-2], images.shape[-1])] * len(images)
    raise ValueError(
        "batch_padding='exact' knows no sizes of these images: give sizes=[(h, w), ...], or call the model of mmdet or "
        "mmseg that this is the backbone of with the images' data samples."
    )
