"""Detections of heads that say of every cell of every level what is there: RetinaNet, FCOS, ATSS, RTMDet, an RPN."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .boxes import (
    Array,
    anchor_grid,
    decode_deltas,
    decode_distances,
    float32,
    large_enough,
    point_grid,
    sigmoid,
    softmax,
    suppress,
)


def decode_dense(
    levels: Sequence[Sequence[Array]], settings: dict[str, Any], size: tuple[int, int], scale: tuple[float, float]
) -> dict[str, Array]:
    """Find the boxes of one image.

    Args:
        levels: for each level, what the head says of the image: logits of classes ``(A * C, h, w)``, boxes
            ``(A * 4, h, w)``, and where the head has it a factor of the scores, ``(A, h, w)``.
        settings: of the metadata's ``decoding``.
        size: ``(H, W)`` of the image without its padding.
        scale: of the image, along x and along y, to the one that the boxes are for.

    Returns:
        ``boxes`` ``(N, 4)``, ``scores`` ``(N,)`` and ``labels`` ``(N,)``, the best first.
    """
    found = []
    for level, (logits, boxes, *factor) in enumerate(levels):
        places, labels, scores = _find(_by_cell(logits, settings["channels"]), settings)
        best = np.argsort(-scores, kind="stable")[: min(settings["before_nms"], len(places))]
        places, labels, scores = places[best], labels[best], scores[best]
        if factor:
            scores = scores * sigmoid(_by_cell(factor[0], 1)[places, 0])
        decoded = _decode(
            _by_cell(boxes, 4)[places], _priors(settings, level, boxes.shape[-2:])[places], settings, size
        )
        found.append((decoded, scores, labels))
    boxes, scores, labels = (np.concatenate(parts) for parts in zip(*found, strict=True))
    boxes = boxes * float32([1 / scale[0], 1 / scale[1]] * 2)
    large = large_enough(boxes, settings["least_side"])
    boxes, scores, labels = boxes[large], scores[large], labels[large]
    kept = suppress(boxes, scores, labels, settings["nms"], settings["most"])
    return {"boxes": boxes[kept], "scores": scores[kept], "labels": labels[kept]}


def propose(levels: Sequence[Sequence[Array]], settings: dict[str, Any], size: tuple[int, int]) -> Array:
    """Find the proposals of an RPN for one image, ``(N, 4)``, the best first; the arguments are as above."""
    found = []
    for level, (logits, boxes) in enumerate(levels):
        scores = _activate(_by_cell(logits, settings["channels"]), settings["softmax"])[:, 0]
        if 0 < settings["before_nms"] < len(scores):
            best = np.argsort(-scores, kind="stable")[: settings["before_nms"]]
        else:
            best = np.arange(len(scores))
        decoded = _decode(_by_cell(boxes, 4)[best], _priors(settings, level, boxes.shape[-2:])[best], settings, size)
        found.append((decoded, scores[best], np.full(len(best), level)))
    boxes, scores, of_level = (np.concatenate(parts) for parts in zip(*found, strict=True))
    large = large_enough(boxes, settings["least_side"])
    boxes, scores, of_level = boxes[large], scores[large], of_level[large]
    return boxes[suppress(boxes, scores, of_level, settings["nms"], settings["most"])]


def _find(logits: Array, settings: dict[str, Any]) -> tuple[Array, Array, Array]:
    """Find what is above the threshold of scores in logits ``(N, C)``: anchors, classes and scores, ``(M,)`` each."""
    threshold = settings["score_threshold"]
    if settings["softmax"] or not 0 < threshold < 1:
        scores = _activate(logits, settings["softmax"])
        places, labels = np.nonzero(scores > threshold)
        return places, labels, scores[places, labels]
    # Nearly all logits are below, and need no sigmoid; the margin is for its rounding.
    places, labels = np.nonzero(logits > np.log(threshold / (1 - threshold)) - 1e-3)
    scores = sigmoid(logits[places, labels])
    above = scores > threshold
    return places[above], labels[above], scores[above]


def _by_cell(values: Array, channels: int) -> Array:
    """Turn ``(A * channels, h, w)`` into ``(h * w * A, channels)``."""
    return values.transpose(1, 2, 0).reshape(-1, channels)


def _activate(logits: Array, is_softmax: bool) -> Array:
    """Turn logits into scores of the classes; a softmax has the background as its last one."""
    return softmax(logits)[:, :-1] if is_softmax else sigmoid(logits)


def _priors(settings: dict[str, Any], level: int, size: tuple[int, int]) -> Array:
    if "anchors" in settings:
        return anchor_grid(settings["anchors"][level], size, settings["strides"][level])
    return point_grid(size, settings["strides"][level], settings["offset"])


def _decode(values: Array, priors: Array, settings: dict[str, Any], size: tuple[int, int]) -> Array:
    decode = decode_deltas if "anchors" in settings else decode_distances
    return decode(priors, values, settings["coder"], size)
