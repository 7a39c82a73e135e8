"""Detections of query heads: DINO's boxes, and the masks of MaskFormer and Mask2Former."""

from typing import Any

import numpy as np

from .boxes import Array, decode_centres, float32, sigmoid, softmax
from .images import resize

#: mmdet's factor of an instance's number in a panoptic map; what is left is the class.
INSTANCE_OFFSET = 1000


def decode_boxes(
    logits: Array, boxes: Array, settings: dict[str, Any], size: tuple[int, int], scale: tuple[float, float]
) -> dict[str, Array]:
    """Find the boxes of one image.

    Args:
        logits: ``(Q, C)``, or with a softmax ``(Q, C + 1)``, the background last.
        boxes: ``(Q, 4)``, centre, width and height in shares of the image.
        settings: of the metadata's ``decoding``.
        size: ``(H, W)`` of the image.
        scale: of the image, along x and along y, to the one that the boxes are for.

    Returns:
        ``boxes`` ``(N, 4)``, ``scores`` ``(N,)`` and ``labels`` ``(N,)``, the best first.
    """
    if settings["softmax"]:
        scores = softmax(logits)[:, :-1]
        best = np.argsort(-scores.max(-1), kind="stable")[: settings["most"]]
        places, labels = best, scores[best].argmax(-1)
    else:
        scores = sigmoid(logits)
        best = np.argsort(-scores, axis=None, kind="stable")[: settings["most"]]
        places, labels = np.divmod(best, scores.shape[1])
    found = decode_centres(boxes[places], size) / float32([*scale, *scale])
    return {"boxes": found, "scores": scores[places, labels], "labels": labels}


def decode_masks(
    logits: Array,
    masks: Array,
    settings: dict[str, Any],
    padded: tuple[int, int],
    size: tuple[int, int],
    original: tuple[int, int],
) -> dict[str, Array]:
    """Find the instances of one image, and its panoptic map.

    Args:
        logits: ``(Q, C + 1)``, the background last.
        masks: ``(Q, h, w)``, logits.
        settings: of the metadata's ``decoding``.
        padded: ``(H, W)`` of the image with its padding.
        size: the same without.
        original: ``(H, W)`` that the masks are for.

    Returns:
        With ``settings["panoptic"]``, ``panoptic``: ``(H, W)``, the class plus 1000 times the number of the instance.
        With ``settings["instances"]``, ``boxes`` ``(N, 4)``, ``scores`` and ``labels`` ``(N,)`` and ``masks``
        ``(N, H, W)``, True inside.
    """
    masks = resize(resize(masks, padded)[:, : size[0], : size[1]], original)
    found = {}
    if settings["panoptic"] is not None:
        found["panoptic"] = _merge(softmax(logits), sigmoid(masks), settings)
    if settings["instances"] is not None:
        found.update(_separate(softmax(logits)[:, :-1], masks, settings))
    return found


def _merge(scores: Array, masks: Array, settings: dict[str, Any]) -> Array:
    """Give each pixel to a query, and each query that keeps enough of its own to its class."""
    background, rules = scores.shape[1] - 1, settings["panoptic"]
    labels, best = scores.argmax(-1), scores.max(-1)
    kept = np.flatnonzero((labels != background) & (best > rules["score_threshold"]))
    merged = np.full(masks.shape[1:], background, np.int32)
    owners = (best[kept, None, None] * masks[kept]).argmax(0) if len(kept) else merged
    number = 1
    for owner, query in enumerate(kept):
        inside, own = owners == owner, masks[query] >= 0.5
        area, whole = np.count_nonzero(inside), np.count_nonzero(own)
        if not area or not whole or area / whole < rules["overlap"]:
            continue
        is_thing = labels[query] < settings["things"]
        merged[inside & own if rules["filter"] else inside] = labels[query] + is_thing * number * INSTANCE_OFFSET
        number += is_thing
    return merged


def _separate(scores: Array, masks: Array, settings: dict[str, Any]) -> dict[str, Array]:
    """Take the best pairs of a query and a class for instances."""
    best = np.argsort(-scores, axis=None, kind="stable")[: settings["instances"]["most"]]
    places, labels = np.divmod(best, scores.shape[1])
    places, labels = places[labels < settings["things"]], labels[labels < settings["things"]]
    inside = masks[places] > 0
    certain = [sigmoid(masks[place])[own].sum() / (own.sum() + 1e-6) for place, own in zip(places, inside, strict=True)]
    final = scores[places, labels] * np.array(certain, np.float32)
    order = np.argsort(-final, kind="stable")
    boxes = np.array([_surround(own) for own in inside], np.float32).reshape(-1, 4)
    return {"boxes": boxes[order], "scores": final[order], "labels": labels[order], "masks": inside[order]}


def _surround(mask: Array) -> list[int]:
    """Return the box of a mask ``(H, W)``; zeros where it is empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1] if len(rows) else [0, 0, 0, 0]
