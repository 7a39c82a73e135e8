"""Boxes in numpy beside mmdet's and mmcv's own."""

import numpy as np
import pytest
import torch
from mmcv.ops import batched_nms
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder, DistancePointBBoxCoder
from mmdet.models.task_modules.prior_generators import AnchorGenerator, MlvlPointGenerator

from adapters.export.decoding import boxes as decoding

SIZE = (120, 200)


def random_boxes(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(-10, 210, (count, 2, 2)).astype(np.float32)
    return np.concatenate([corners.min(1), corners.max(1)], 1)


def test_anchors_and_points() -> None:
    anchors = AnchorGenerator(strides=[(8, 4), 16], ratios=[0.5, 2.0], scales=[1.5, 4.0], center_offset=0.5)
    points = MlvlPointGenerator(strides=[(8, 4), 16], offset=0.25)
    for level, size in enumerate([(5, 3), (2, 4)]):
        expected = anchors.single_level_grid_priors(size, level, device="cpu").numpy()
        base, stride = anchors.base_anchors[level].numpy(), anchors.strides[level]
        assert np.array_equal(decoding.anchor_grid(base.tolist(), size, stride), expected)
        expected = points.single_level_grid_priors(size, level, device="cpu").numpy()
        assert np.array_equal(decoding.point_grid(size, stride, 0.25), expected)


@pytest.mark.parametrize("clamp", [None, 8])
@pytest.mark.parametrize("clip", [True, False])
def test_deltas(clamp: int | None, clip: bool) -> None:
    means, stds = (0.1, 0.0, -0.1, 0.2), (0.1, 0.2, 0.5, 1.0)
    coder = DeltaXYWHBBoxCoder(means, stds, clip_border=clip, add_ctr_clamp=clamp is not None, ctr_clamp=clamp or 32)
    boxes, deltas = random_boxes(50), np.random.default_rng(1).normal(0, 4, (50, 12)).astype(np.float32)
    expected = coder.decode(torch.from_numpy(boxes), torch.from_numpy(deltas), max_shape=SIZE).numpy()
    settings = {"means": means, "stds": stds, "clip": clip, "clamp": clamp}
    np.testing.assert_allclose(decoding.decode_deltas(boxes, deltas, settings, SIZE), expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("clip", [True, False])
def test_distances(clip: bool) -> None:
    points, distances = random_boxes(50)[:, :2], random_boxes(50, 1)
    expected = DistancePointBBoxCoder(clip).decode(torch.from_numpy(points), torch.from_numpy(distances), SIZE).numpy()
    assert np.array_equal(decoding.decode_distances(points, distances, {"clip": clip}, SIZE), expected)


@pytest.mark.parametrize("class_agnostic", [True, False])
@pytest.mark.parametrize("threshold", [0.3, 0.6, None])
def test_suppression(threshold: float | None, class_agnostic: bool) -> None:
    boxes = np.concatenate([random_boxes(300), random_boxes(300) + np.float32(3)])
    boxes[:5, 2:] = boxes[:5, :2]  # without an area
    rng = np.random.default_rng(2)
    scores, groups = rng.permutation(600).astype(np.float32) / 600, rng.integers(0, 3, 600)
    settings = {"iou_threshold": threshold, "class_agnostic": class_agnostic}
    config = None if threshold is None else dict(type="nms", **settings)
    kept = batched_nms(*map(torch.from_numpy, (boxes, scores, groups)), config)[1].numpy()
    assert len(kept) == 600 or 50 < len(kept) < 500
    assert np.array_equal(decoding.suppress(boxes, scores, groups, settings, -1), kept)
    assert np.array_equal(decoding.suppress(boxes, scores, groups, settings, 20), kept[:20])


def test_nothing_is_suppressed_of_nothing() -> None:
    empty = np.zeros((0, 4), np.float32)
    settings = {"iou_threshold": 0.5, "class_agnostic": False}
    assert len(decoding.suppress(empty, empty[:, 0], empty[:, 0], settings, 5)) == 0


def test_scores_of_any_size() -> None:
    logits = np.float32([[-1000, 0, 1000]])
    np.testing.assert_allclose(decoding.sigmoid(logits), [[0, 0.5, 1]])
    np.testing.assert_allclose(decoding.softmax(logits), [[0, 0, 1]])


def test_small_boxes_are_left_out() -> None:
    boxes = np.float32([[0, 0, 2, 2], [0, 0, 2, 3], [0, 0, 0, 0], [0, 0, 3, 3]])
    assert decoding.large_enough(boxes, 2).tolist() == [False, False, False, True]
    assert decoding.large_enough(boxes, 0).tolist() == [True, True, False, True]
    assert decoding.large_enough(boxes, -1).all()
