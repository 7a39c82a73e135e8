"""Every kind of head: its graph and the decoding of what that gives, beside the predictions of mmdet and mmseg."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import small_exports
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmseg.structures import SegDataSample

from adapters.export.decoding import Model
from adapters.openmmlab.export.whole import as_graphs

HEADS = {**small_exports.DENSE, **small_exports.STAGES, **small_exports.SEGMENTORS}
#: Height and width of the images, and of what they were before they were resized.
SIZES = [((128, 160), (200, 260)), ((131, 97), (131, 97))]


def predict(model: Any, image: np.ndarray, original: tuple[int, int], scope: str) -> Any:
    """What mmdet or mmseg predicts for an image, whose channels it turns round."""
    size = image.shape[:2]
    scale = (size[1] / original[1], size[0] / original[0])
    kind = DetDataSample if scope == "mmdet" else SegDataSample
    sample = kind(metainfo=dict(img_shape=size, ori_shape=original, scale_factor=scale))
    turned = image[..., ::-1] if model.data_preprocessor._channel_conversion else image
    pixels = torch.from_numpy(np.ascontiguousarray(turned)).permute(2, 0, 1)
    with torch.no_grad():
        (found,) = model(**model.data_preprocessor(dict(inputs=[pixels], data_samples=[sample])), mode="predict")
    return found


def assert_same(found: dict[str, np.ndarray], expected: Any) -> None:
    """Check boxes to an IoU of 0.99, scores to 1e-3, and masks and maps."""
    if "pred_sem_seg" in expected:
        labels = expected.pred_sem_seg.data[0].numpy()
        assert found["label_map"].shape == labels.shape
        assert (found["label_map"] != labels).mean() < 1e-3
        return
    instances = expected.pred_instances
    scores, order = instances.scores.sort(descending=True)
    assert len(found["scores"]) == len(scores) > 2
    assert scores[-1] < scores[0] < 1  # not saturated
    np.testing.assert_allclose(found["scores"], scores, atol=1e-3)
    assert np.array_equal(found["labels"], instances.labels[order])
    assert overlaps(found["boxes"], instances.bboxes[order].numpy()).min() > 0.99
    if "masks" in instances:
        assert (found["masks"] != instances.masks[order].numpy()).mean() < 1e-3
    if "pred_panoptic_seg" in expected:
        merged = expected.pred_panoptic_seg.sem_seg[0].numpy()
        assert len(np.unique(merged)) > 2
        assert (found["panoptic"] != merged).mean() < 1e-3


def overlaps(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The intersection over union of boxes side by side; 1 for two that are empty and alike."""
    low, high = np.maximum(one[:, :2], other[:, :2]), np.minimum(one[:, 2:], other[:, 2:])
    shared = np.maximum(high - low, 0).prod(1)
    union = sum((boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (one, other)) - shared
    return np.where(union > 0, shared / np.maximum(union, 1e-9), np.abs(one - other).max(1) < 1e-3)


@pytest.mark.parametrize("make", HEADS.values(), ids=HEADS)
def test_it_predicts_as_mmdet_and_mmseg_do(make: Callable[[], dict[str, Any]]) -> None:
    cfg = small_exports.config(make)
    model = small_exports.build(cfg)
    own, whole = as_graphs(model)
    exported = small_exports.eager(cfg, own, whole)
    rng = np.random.default_rng(0)
    for size, original in SIZES if whole.multiple == 1 else SIZES[:1]:
        image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        (found,) = exported.predict([image], original)
        assert_same(found, predict(model, image, original, cfg.default_scope))
    assert whole.multiple == (32 if make is small_exports.rtmdet else 1)


def test_a_batch_is_predicted_as_each_image() -> None:
    cfg = small_exports.config(small_exports.STAGES["Mask R-CNN"])
    exported = small_exports.eager(cfg, *as_graphs(small_exports.build(cfg)))
    images = list(np.random.default_rng(0).integers(0, 256, (2, 90, 70, 3), dtype=np.uint8))
    for found, image in zip(exported.predict(images), images, strict=True):
        alone = exported(image, resize=False)
        assert np.array_equal(found["labels"], alone["labels"])
        np.testing.assert_allclose(found["boxes"], alone["boxes"], atol=1e-3)
        assert (found["masks"] != alone["masks"]).mean() < 1e-3


def test_an_image_without_anything() -> None:
    cfg = small_exports.config(small_exports.STAGES["Mask R-CNN"])
    cfg.model.test_cfg.rcnn.score_thr = 0.999
    exported: Model = small_exports.eager(cfg, *as_graphs(small_exports.build(cfg)))
    found = exported(np.zeros((50, 60, 3), np.uint8))
    assert {name: array.shape for name, array in found.items()} == {
        "boxes": (0, 4),
        "scores": (0,),
        "labels": (0,),
        "masks": (0, 50, 60),
    }


@pytest.mark.parametrize(
    ("make", "changes", "message"),
    [
        ("RetinaNet", {"backbone.batch_padding": "exact"}, "batch_padding='exact'.*model.backbone.batch_padding=None"),
        ("RetinaNet", {"test_cfg.nms.type": "soft_nms"}, "RetinaHead cannot be exported: its test_cfg.*set that with"),
        ("FCOS", {"bbox_head.type": "FoveaHead"}, "FoveaHead cannot be exported: it decodes its outputs by FoveaHead._pre"),
        ("Mask R-CNN", {"roi_head.type": "MaskScoringRoIHead"}, "MaskScoringRoIHead cannot be exported: only a Standard"),
        ("Mask R-CNN", {"roi_head.mask_roi_extractor.roi_layer.type": "RoIPool"}, "SingleRoIExtractor with RoIAlign"),
        ("UPerNet", {"decode_head.type": "PointHead"}, "PointHead cannot be exported: it decodes its outputs by PointHead"),
    ],
)
def test_a_head_without_an_exported_form_says_why(make: str, changes: dict[str, Any], message: str) -> None:
    cfg = small_exports.config(HEADS[make])
    cfg.merge_from_dict({f"model.{key}": value for key, value in changes.items()})
    for key in SURPLUS.get(changes.get("bbox_head.type", ""), ()):
        del cfg.model.bbox_head[key]
    with pytest.raises(ValueError, match=message):
        as_graphs(small_exports.build(cfg))
