"""Label maps of segmentors: logits of classes, or of queries with masks, over the whole image or window by window."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .boxes import Array, sigmoid, softmax
from .images import padded_size, resize

#: The outputs of a graph, by name.
Outputs = dict[str, Array]


def segment(run: Callable[[Array], Outputs], batch: Array, metadata: dict[str, Any], size: tuple[int, int]) -> Array:
    """Compute the logits of the classes for each pixel of a batch.

    Args:
        run: the graph.
        batch: of :func:`prepare`, ``(B, C, H', W')``.
        metadata: of the graph.
        size: ``(H, W)`` of the images without padding.

    Returns:
        ``(B, classes, H, W)``; of a query head the scores, which are no logits.
    """
    settings = metadata["decoding"]
    whole = (batch.shape[2], batch.shape[3])
    if settings["window"] is None:
        logits = _logits(run(batch), settings, whole)
    else:
        sums, counts = None, np.zeros(whole, np.float32)
        for rows, columns in windows(whole, settings["window"], settings["stride"]):
            window = np.ascontiguousarray(batch[:, :, rows, columns])
            found = _logits(run(window), settings, (window.shape[2], window.shape[3]))
            sums = np.zeros((*found.shape[:2], *whole), np.float32) if sums is None else sums
            sums[:, :, rows, columns] += found
            counts[rows, columns] += 1
        logits = sums / counts
    assert whole == padded_size(size, metadata["images"]), "the batch is padded as the metadata say"
    return logits[:, :, : size[0], : size[1]]


def windows(size: tuple[int, int], window: list[int], stride: list[int]) -> Iterator[tuple[slice, slice]]:
    """Yield the rows and columns of windows that cover an image ``(H, W)``; the last ones end with it."""
    starts = []
    for side, length, step in zip(size, window, stride, strict=True):
        count = max(side - length + step - 1, 0) // step + 1
        starts.append([max(min(index * step + length, side) - length, 0) for index in range(count)])
    for top in starts[0]:
        for left in starts[1]:
            yield slice(top, min(top + window[0], size[0])), slice(left, min(left + window[1], size[1]))


def label(logits: Array, settings: dict[str, Any], size: tuple[int, int]) -> Array:
    """Turn the logits of an image, ``(classes, h, w)``, into labels ``(H, W)``; of one class, 1 where it is."""
    logits = resize(logits, size, settings["align_corners"])
    if len(logits) == 1:
        return (sigmoid(logits[0]) > settings["threshold"]).astype(np.int64)
    return logits.argmax(0)


def _logits(outputs: Outputs, settings: dict[str, Any], size: tuple[int, int]) -> Array:
    """Bring what the head says of images to their size."""
    if "logits" in outputs:
        return resize(outputs["logits"], size, settings["align_corners"])
    scores, masks = softmax(outputs["classes"])[..., :-1], outputs["masks"]
    return np.stack([_add_masks(*pair, size) for pair in zip(scores, masks, strict=True)])


def _add_masks(scores: Array, masks: Array, size: tuple[int, int]) -> Array:
    """Add up the masks ``(Q, h, w)`` of queries by their scores ``(Q, C)``: ``(C, H, W)``."""
    pixels = sigmoid(resize(masks, size)).reshape(len(masks), -1)
    return (scores.T @ pixels).reshape(-1, *size)
