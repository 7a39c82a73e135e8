"""Every kind of head: its graph and the decoding of what that gives, beside the predictions of mmdet and mmseg."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import small_exports
from lab.heads.predictions import compare, predict

from adapters.export.decoding import Model
from adapters.openmmlab.export.whole import as_graphs

HEADS = {**small_exports.DENSE, **small_exports.STAGES, **small_exports.SEGMENTORS}
#: Height and width of the images, and of what they were before they were resized.
SIZES = [((128, 160), (200, 260)), ((131, 97), (131, 97))]


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
        expected = predict(model, image, original)
        assert compare(found, expected)[0] == []
        if "scores" in found:
            assert len(found["scores"]) > 2
            assert found["scores"][-1] < found["scores"][0] < 1  # neither all alike nor saturated
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
        (
            "FCOS",
            {"bbox_head.type": "FoveaHead"},
            "FoveaHead cannot be exported: it decodes its outputs by FoveaHead._pre",
        ),
        ("Mask R-CNN", {"roi_head.type": "PISARoIHead"}, "PISARoIHead cannot be exported: only a StandardRoIHead"),
        ("Mask R-CNN", {"roi_head.mask_roi_extractor.roi_layer.type": "RoIPool"}, "SingleRoIExtractor with RoIAlign"),
    ],
)
def test_a_head_without_an_exported_form_says_why(make: str, changes: dict[str, Any], message: str) -> None:
    cfg = small_exports.config(HEADS[make])
    cfg.merge_from_dict({f"model.{key}": value for key, value in changes.items()})
    with pytest.raises(ValueError, match=message):
        as_graphs(small_exports.build(cfg))


def test_a_decode_head_that_predicts_in_a_way_of_its_own() -> None:
    model: Any = small_exports.build(small_exports.config(HEADS["UPerNet"]))
    head = type(model.decode_head)
    model.decode_head.__class__ = type("OwnHead", (head,), {"predict": lambda *_: None})
    with pytest.raises(
        ValueError, match=r"OwnHead cannot be exported: it decodes .*<lambda>.* Export its backbone alone"
    ):
        as_graphs(model)
