"""Predictions of mmdet and mmseg beside those of an exported file."""

from typing import Any

import numpy as np
import torch

#: What makes two detections the same: the least overlap, and the greatest difference of scores.
OVERLAP, SCORE = 0.99, 1e-3
#: The share of pixels of a mask or label map that may differ, those between two near equals.
PIXELS = 1e-3

Found = dict[str, np.ndarray[Any, Any]]


def predict(model: Any, image: np.ndarray[Any, Any], original: tuple[int, int]) -> Any:
    """Predict an image as mmdet or mmseg does.

    Args:
        model: in eval mode.
        image: ``(H, W, 3)``, in the order of channels in which the model normalises them.
        original: ``(H, W)`` of the image before it was resized.
    """
    from mmdet.structures import DetDataSample
    from mmseg.models import BaseSegmentor
    from mmseg.structures import SegDataSample

    size = image.shape[:2]
    scale = (size[1] / original[1], size[0] / original[0])
    kind = SegDataSample if isinstance(model, BaseSegmentor) else DetDataSample
    sample = kind(metainfo=dict(img_shape=size, ori_shape=original, scale_factor=scale))
    loaded = image[..., ::-1] if model.data_preprocessor._channel_conversion else image
    pixels = torch.from_numpy(np.ascontiguousarray(loaded)).permute(2, 0, 1)
    with torch.no_grad():
        (found,) = model(**model.data_preprocessor(dict(inputs=[pixels], data_samples=[sample])), mode="predict")
    return found


def compare(found: Found, expected: Any) -> tuple[list[str], str]:
    """Compare what a file gives with a prediction of mmdet's or mmseg's.

    Returns:
        The differences, none where the two are the same, and a word on what was compared.
    """
    if "pred_sem_seg" in expected:
        labels = expected.pred_sem_seg.data[0].numpy()
        share = float((found["label_map"] != labels).mean())
        wrong = [f"{share:.2%} of the label map differ"] if share > PIXELS else []
        return wrong, f"{len(np.unique(labels))} classes"
    instances = expected.pred_instances
    wrong = compare_detections(found, {name: instances[name].numpy() for name in instances.keys()})  # noqa: SIM118
    if "pred_panoptic_seg" in expected:
        share = float((found["panoptic"] != expected.pred_panoptic_seg.sem_seg[0].numpy()).mean())
        wrong += [f"{share:.2%} of the panoptic map differ"] if share > PIXELS else []
    return wrong, f"{len(instances)} detections"


def compare_detections(found: Found, expected: Found) -> list[str]:
    """Match detections, and tell of those that have no other of the same class, place and score.

    Of those whose score is that of the last one, either may be the last.
    """
    if len(found["scores"]) != len(expected["scores"]):
        return [f"{len(found['scores'])} detections, not {len(expected['scores'])}"]
    wrong = []
    free = np.ones(len(found["scores"]), bool)
    for index, score in enumerate(expected["scores"]):
        if score < expected["scores"].min() + SCORE:
            continue
        alike = free & (found["labels"] == expected["labels"][index]) & (abs(found["scores"] - score) < SCORE)
        overlaps = overlap(found["boxes"], expected["bboxes"][index]) * alike
        best = int(overlaps.argmax())
        if overlaps[best] < OVERLAP:
            wrong.append(f"no detection like number {index}, of score {score:.4f}")
            continue
        free[best] = False
        if "masks" in found:
            share = float((found["masks"][best] != expected["masks"][index]).mean())
            wrong += [f"{share:.2%} of mask {index} differ"] if share > PIXELS else []
    return wrong


def overlap(boxes: np.ndarray[Any, Any], box: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the intersection over union of boxes ``(N, 4)`` with one; 1 for one that is empty and the same."""
    low, high = np.maximum(boxes[:, :2], box[:2]), np.minimum(boxes[:, 2:], box[2:])
    shared = np.maximum(high - low, 0).prod(1)
    union = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (box[2:] - box[:2]).prod() - shared
    return np.where(union > 0, shared / np.maximum(union, 1e-9), abs(boxes - box).max(1) < 1e-3)
