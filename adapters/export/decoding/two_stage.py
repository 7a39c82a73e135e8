"""The second stage of Faster and Mask R-CNN: boxes of each class, and masks that are pasted into the image."""

from typing import Any

import numpy as np

from .boxes import Array, decode_deltas, float32, sigmoid, softmax, suppress


def decode_rois(
    rois: Array,
    logits: Array,
    deltas: Array,
    settings: dict[str, Any],
    size: tuple[int, int],
    scale: tuple[float, float],
) -> dict[str, Array]:
    """Find the boxes of one image.

    Args:
        rois: ``(N, 4)``, the proposals.
        logits: ``(N, C + 1)``, the background last.
        deltas: ``(N, 4 * C)``, or ``(N, 4)`` for all classes together.
        settings: of the metadata's ``decoding``.
        size: ``(H, W)`` of the image without its padding.
        scale: of the image, along x and along y, to the one that the boxes are for.

    Returns:
        ``boxes`` ``(M, 4)``, ``scores`` ``(M,)`` and ``labels`` ``(M,)``, the best first.
    """
    scores = softmax(logits)[:, :-1]
    boxes = decode_deltas(rois, deltas, settings["coder"], size) * np.tile(
        float32([1 / scale[0], 1 / scale[1]]), deltas.shape[1] // 2
    )
    boxes = np.broadcast_to(boxes.reshape(len(rois), -1, 4), (*scores.shape, 4))
    places, labels = np.nonzero(scores > settings["score_threshold"])
    boxes, scores = boxes[places, labels], scores[places, labels]
    kept = suppress(boxes, scores, labels, settings["nms"], settings["most"])
    return {"boxes": boxes[kept], "scores": scores[kept], "labels": labels[kept]}


def paste_masks(logits: Array, boxes: Array, labels: Array, threshold: float, size: tuple[int, int]) -> Array:
    """Paste what a mask head says of boxes into the image: ``(N, H, W)``, True inside.

    Args:
        logits: ``(N, C, h, w)``, or ``(N, 1, h, w)`` for all classes together.
        boxes: ``(N, 4)`` in the image's pixels.
        labels: ``(N,)``.
        threshold: the least score of a pixel that is inside.
        size: ``(H, W)`` of the image.
    """
    masks = np.zeros((len(boxes), *size), bool)
    for index, (box, label) in enumerate(zip(boxes, labels, strict=True)):
        mask = sigmoid(logits[index, label if logits.shape[1] > 1 else 0])
        left, top = (max(int(np.floor(side)) - 1, 0) for side in box[:2])
        right, bottom = (min(int(np.ceil(side)) + 1, int(end)) for side, end in zip(box[2:], size[::-1], strict=True))
        columns = _sample(left, right, box[0], box[2], mask.shape[1])
        rows = _sample(top, bottom, box[1], box[3], mask.shape[0])
        masks[index, top:bottom, left:right] = rows @ mask @ columns.T >= threshold
    return masks


def _sample(first: int, end: int, low: float, high: float, cells: int) -> Array:
    """Weigh the cells of a mask that lies from ``low`` to ``high`` for each pixel, ``(end - first, cells)``.

    Between the centres of two cells the weights go from one to the other; beyond the mask is zero.
    """
    centres = np.arange(first, end, dtype=np.float32) + np.float32(0.5)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = (centres - low) / (high - low)
    shares[np.isinf(shares)] = 0.5  # as mmdet has boxes without a width
    places = shares * cells - np.float32(0.5)
    return np.maximum(1 - np.abs(places[:, None] - np.arange(cells, dtype=np.float32)), 0)
