"""Boxes in numpy: anchors and points of a grid, what a head says about them, and non-maximum suppression.

Boxes are ``(N, 4)``, x and y of the upper left and of the lower right corner in pixels, float32. The formulas, and the
order in which they are rounded, are those of mmdet and mmcv, so that no threshold falls to another side.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Array = Any  # numpy's arrays, whose types say nothing of shapes

#: The largest change of a side, as a logarithm.
MAX_CHANGE = abs(math.log(16 / 1000))


def float32(values: Any) -> Array:
    """Return numbers as an array of float32, in which everything is computed."""
    return np.asarray(values, np.float32)


def sigmoid(logits: Array) -> Array:
    """Compute ``1 / (1 + exp(-x))``, of any shape."""
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-logits))


def softmax(logits: Array) -> Array:
    """Compute the softmax along the last axis, of any shape."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def anchor_grid(anchors: Array, size: tuple[int, int], stride: Sequence[float]) -> Array:
    """Move a cell's anchors to every cell of a map.

    Args:
        anchors: ``(A, 4)``, those of the upper left cell.
        size: ``(h, w)`` of the map.
        stride: pixels per cell, along x and along y.

    Returns:
        ``(h * w * A, 4)``, row by row, the anchors of a cell side by side.
    """
    corners = point_grid(size, stride, 0.0)
    return (corners[:, [0, 1, 0, 1]][:, None] + float32(anchors)).reshape(-1, 4)


def point_grid(size: tuple[int, int], stride: Sequence[float], offset: float) -> Array:
    """Return the point of every cell, ``(h * w, 2)``, row by row: x and y in pixels.

    Args:
        size: ``(h, w)`` of the map.
        stride: pixels per cell, along x and along y.
        offset: of the point from the cell's upper left corner, in cells.
    """
    y, x = ((np.arange(side) + offset) * step for side, step in zip(size, stride[::-1], strict=True))
    return np.stack(np.broadcast_arrays(x[None, :], y[:, None]), -1).reshape(-1, 2).astype(np.float32)


def decode_deltas(boxes: Array, deltas: Array, coder: dict[str, Any], size: tuple[int, int]) -> Array:
    """Move and stretch boxes by what a head says of them: mmdet's ``DeltaXYWHBBoxCoder``.

    Args:
        boxes: ``(N, 4)``.
        deltas: ``(N, 4)``, or ``(N, 4 * C)`` for boxes of each class: of the centre, and of the sides' logarithms.
        coder: ``means`` and ``stds`` of the deltas, ``clip`` to the image, and ``clamp``, the most pixels that a centre
            moves, or None.
        size: ``(H, W)`` of the image.

    Returns:
        ``(N, 4)`` or ``(N, 4 * C)``.
    """
    groups = deltas.shape[-1] // 4
    deltas = deltas.reshape(-1, 4) * float32(coder["stds"]) + float32(coder["means"])
    boxes = np.repeat(boxes, groups, 0)
    centres, sides = (boxes[:, :2] + boxes[:, 2:]) * np.float32(0.5), boxes[:, 2:] - boxes[:, :2]
    moves, changes = sides * deltas[:, :2], deltas[:, 2:]
    if coder["clamp"] is None:
        changes = np.clip(changes, -MAX_CHANGE, MAX_CHANGE)
    else:
        moves, changes = np.clip(moves, -coder["clamp"], coder["clamp"]), np.minimum(changes, MAX_CHANGE)
    centres = centres + moves
    halves = sides * np.exp(changes) * np.float32(0.5)
    decoded = np.concatenate([centres - halves, centres + halves], -1).astype(np.float32)
    return (clip(decoded, size) if coder["clip"] else decoded).reshape(-1, 4 * groups)


def decode_distances(points: Array, distances: Array, coder: dict[str, Any], size: tuple[int, int]) -> Array:
    """Make boxes ``(N, 4)`` of points ``(N, 2)`` and the distances ``(N, 4)`` of their sides: left, top, right, bottom.

    Args:
        points: x and y in pixels.
        distances: in pixels.
        coder: ``clip`` to the image.
        size: ``(H, W)`` of the image.
    """
    decoded = np.concatenate([points - distances[:, :2], points + distances[:, 2:]], -1)
    return clip(decoded, size) if coder["clip"] else decoded


def decode_centres(boxes: Array, size: tuple[int, int]) -> Array:
    """Make boxes ``(N, 4)`` in pixels of centres, widths and heights ``(N, 4)`` in shares of an image ``(H, W)``."""
    centres, halves = boxes[:, :2], np.float32(0.5) * boxes[:, 2:]
    corners = np.concatenate([centres - halves, centres + halves], -1) * float32([size[1], size[0]] * 2)
    return clip(corners, size)


def clip(boxes: Array, size: tuple[int, int]) -> Array:
    """Cut boxes ``(N, 4)`` to an image ``(H, W)``."""
    return np.clip(boxes, np.float32(0), float32([size[1], size[0]] * 2))


def large_enough(boxes: Array, least: float) -> Array:
    """Tell which boxes ``(N, 4)`` are wider and higher than a number of pixels; all where that is negative."""
    return (boxes[:, 2:] - boxes[:, :2] > least).all(-1) | (least < 0)


def suppress(boxes: Array, scores: Array, groups: Array, settings: dict[str, Any], most: int) -> Array:
    """Keep the best of boxes that overlap, those of other groups apart: mmcv's ``batched_nms``.

    Args:
        boxes: ``(N, 4)``.
        scores: ``(N,)``.
        groups: ``(N,)``, classes or levels.
        settings: ``iou_threshold``, and ``class_agnostic`` where groups do not matter. Without a threshold (None) no
            box is suppressed.
        most: the number of boxes that are kept at most; all where it is not positive.

    Returns:
        Indices of the boxes that stay, the best first.
    """
    order = np.argsort(-scores, kind="stable")
    most = most if most > 0 else len(order)
    threshold = settings["iou_threshold"]
    if threshold is None or not len(order):
        return order[:most]
    if not settings["class_agnostic"]:  # far apart, as mmcv has it
        boxes = boxes + groups.astype(np.float32)[:, None] * (boxes.max() + np.float32(1))
    low, high = boxes[order, :2], boxes[order, 2:]
    areas = (high - low).prod(-1)
    kept: list[int] = []
    while len(order) and len(kept) < most:
        kept.append(order[0])
        sides = np.minimum(high[0], high[1:]) - np.maximum(low[0], low[1:])
        shared = np.maximum(sides, 0).prod(-1)
        with np.errstate(divide="ignore", invalid="ignore"):  # two boxes without an area
            stays = ~(shared / (areas[0] + areas[1:] - shared) > np.float32(threshold))
        order, low, high, areas = order[1:][stays], low[1:][stays], high[1:][stays], areas[1:][stays]
    return np.asarray(kept, np.int64)
