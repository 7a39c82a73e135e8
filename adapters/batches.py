"""Batches of images of several sizes: each image is computed at its own size, so that no padding reaches its maps.

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
    run: Callable[[Tensor], tuple[Tensor, ...]], images: Tensor, sizes: Sizes, levels: Sequence[Level]
) -> tuple[Tensor, ...]:
    """Run the images of each size together, without their padding.

    Args:
        run: computes the maps of images, ``(B, C, H, W)`` -> ``(B, C_i, ceil(H / s_i), ceil(W / s_i))`` for each level.
        images: ``(B, C, H, W)``, padded right and bottom.
        sizes: ``(h, w)`` of each image.
        levels: the level of each map.

    Returns:
        Contiguous ``(B, C_i, ceil(H / s_i), ceil(W / s_i))``, zero beyond each image's ``ceil(h / s_i)`` rows and
        ``ceil(w / s_i)`` columns.

    Raises:
        ValueError: the sizes are not one for each image, or not within the batch.
    """
    sizes = check_sizes(sizes, images)
    height, width = images.shape[-2:]
    members: dict[tuple[int, int], list[int]] = {}
    for index, size in enumerate(sizes):
        members.setdefault(size, []).append(index)
    if set(members) <= {(height, width)}:
        return run(images)
    rows: list[list[Tensor]] = [[images] * len(sizes) for _ in levels]
    for (h, w), indices in members.items():
        maps = run(images[:, :, :h, :w] if len(members) == 1 else images[indices, :, :h, :w])
        for feature_map, level, row in zip(maps, levels, rows, strict=True):
            bottom, right = -(-height // level.stride), -(-width // level.stride)
            padded = F.pad(feature_map, (0, right - feature_map.shape[-1], 0, bottom - feature_map.shape[-2]))
            for index, image_map in zip(indices, padded.split(1), strict=True):
                row[index] = image_map
    return tuple(torch.cat(row) for row in rows)


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
