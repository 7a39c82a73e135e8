"""Synthetic batches for every kind of model that ships with mmdet and mmseg.

A batch is what a data loader gives to ``model.data_preprocessor``: a dict of ``inputs`` and ``data_samples``.
Everything is seeded and tiny, because sweeps and tests ask whether a model runs, never how well.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from mmdet.structures import DetDataSample, TrackDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample

from adapters.openmmlab.config_tree import children, type_name

Batch = dict[str, Any]

VIDEO_DETECTORS = ("Mask2FormerVideo", "MaskTrackRCNN", "QDTrack")
TRACKERS = ("ByteTrack", "OCSORT", "DeepSORT", "StrongSORT")

#: Heads whose assigner takes masks as tensors if there are any, which pipelines for boxes do not load.
HEADS_FOR_BOXES_ALONE = ("RTMDetHead", "RTMDetSepBNHead")

MAX_QUERIES = 100


def shrink_model(node: Any, size: int) -> None:
    """Prepare a model's config for tiny images, in place.

    The parts that would resize or pad them are left out, and a head asks for fewer queries than they have cells.

    Args:
        node: ``cfg.model``, or a part of it.
        size: side of the images in pixels.
    """
    for child in children(node):
        shrink_model(child, size)
    if isinstance(node, dict):
        node.pop("batch_augments", None)
        if type_name(node) == "SegDataPreProcessor":
            node.update(size=(size, size), test_cfg=None)
        if node.get("num_queries", 0) > MAX_QUERIES:
            node["num_queries"] = MAX_QUERIES


def make_batch(model: Mapping, scope: str, size: int, training: bool) -> Batch:
    """Make a batch that suits a model's config.

    Args:
        model: ``cfg.model``.
        scope: ``'mmdet'`` or ``'mmseg'``.
        size: side of the images in pixels.
        training: for ``mode='loss'``, else for ``mode='predict'``.
    """
    rng = np.random.default_rng(0)
    name = model["type"].rsplit(".", 1)[-1]
    if scope == "mmseg":
        depth = "Depth" in name
        return _collate([_segmentation_sample(rng, size, _smallest_count(model), depth) for _ in range(2)])
    sample = _sample_maker(model)
    if name in VIDEO_DETECTORS:
        return _collate([_video(rng, sample, size, frames=2 if training else 1)])
    if name in TRACKERS and not training:
        return _collate([_video(rng, sample, size, frames=1)])
    if name == "SoftTeacher" and training:
        return _semi_supervised(rng, sample, size)
    return _collate([sample(rng, size, image_id) for image_id in range(2)])


def _collate(samples: list[Batch]) -> Batch:
    return {key: [sample[key] for sample in samples] for key in samples[0]}


def _image(rng: np.random.Generator, size: int) -> torch.Tensor:
    return torch.from_numpy(rng.integers(0, 255, (3, size, size), dtype=np.uint8))


def _smallest_count(node: Any, key: str = "num_classes") -> int:
    """Find the smallest value of a key anywhere in a config, so that no label is out of range for any head."""
    if isinstance(node, Mapping):
        found = [node[key]] if isinstance(node.get(key), int) else []
        return min([*found, *(_smallest_count(value, key) for value in node.values())], default=1 << 30)
    if isinstance(node, list | tuple):
        return min((_smallest_count(value, key) for value in node), default=1 << 30)
    return 1 << 30


def _segmentation_sample(rng: np.random.Generator, size: int, classes: int, depth: bool) -> Batch:
    sample = SegDataSample(
        metainfo={"img_shape": (size, size), "ori_shape": (size, size), "flip": False, "img_path": "none"}
    )
    if depth:
        sample.gt_depth_map = PixelData(data=torch.from_numpy(rng.random((1, size, size), dtype=np.float32) * 5 + 1))
    else:
        labels = torch.from_numpy(np.kron(rng.integers(0, classes, (4, 4)), np.ones((size // 4, size // 4), np.int64)))
        sample.gt_sem_seg = PixelData(data=labels[None])
        edges = torch.zeros(1, size, size, dtype=torch.long)
        edges[:, :: size // 4] = 1
        sample.gt_edge_map = PixelData(data=edges)
    return {"inputs": _image(rng, size), "data_samples": sample}


def _sample_maker(model: Mapping) -> Callable[[np.random.Generator, int, int], Batch]:
    classes = min(_smallest_count(model), 80)
    things = _smallest_count(model, "num_things_classes")
    semantic_stride = 8 if "semantic_head" in (model.get("roi_head") or {}) else 1

    def sample(rng: np.random.Generator, size: int, image_id: int) -> Batch:
        batch = _detection_sample(rng, size, image_id, min(classes, things), semantic_stride)
        if (model.get("bbox_head") or {}).get("type") in HEADS_FOR_BOXES_ALONE:
            del batch["data_samples"].gt_instances.masks
        if "rpn_head" in model or "roi_head" not in model:
            del batch["data_samples"].proposals  # a detector that is given some would leave its own out
        return batch

    return sample


def _boxes(rng: np.random.Generator, size: int, count: int) -> torch.Tensor:
    """Draw boxes ``(N, 4)`` of an eighth to a half of the image, all inside."""
    sides = rng.uniform(0.125, 0.5, (count, 2)) * size
    corners = rng.uniform(0, 1, (count, 2)) * (size - sides)
    return torch.from_numpy(np.hstack([corners, corners + sides])).float()


def _detection_sample(
    rng: np.random.Generator, size: int, image_id: int, classes: int, semantic_stride: int, count: int = 3
) -> Batch:
    metainfo = {
        "img_id": image_id,
        "img_path": "none",
        "img_shape": (size, size),
        "ori_shape": (size, size),
        "scale_factor": (1.0, 1.0),
        "flip": False,
        "flip_direction": None,
        "homography_matrix": np.eye(3, dtype=np.float32),
        "border": np.array([0, size, 0, size], dtype=np.float32),
    }
    boxes = _boxes(rng, size, count)
    masks = np.zeros((count, size, size), np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
        mask[top:bottom, left:right] = 1
    labels = torch.from_numpy(rng.integers(0, classes, count))
    sample = DetDataSample(metainfo=metainfo)
    sample.gt_instances = InstanceData(
        bboxes=boxes, labels=labels, masks=BitmapMasks(masks, size, size), instances_ids=torch.arange(count) + 100
    )
    sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
    sample.gt_sem_seg = PixelData(
        sem_seg=torch.full((1, size // semantic_stride, size // semantic_stride), classes, dtype=torch.long)
    )
    sample.proposals = InstanceData(bboxes=torch.cat([boxes + 2, _boxes(rng, size, 20)]), scores=torch.rand(count + 20))
    return {"inputs": _image(rng, size), "data_samples": sample}


def _video(
    rng: np.random.Generator, sample: Callable[[np.random.Generator, int, int], Batch], size: int, frames: int
) -> Batch:
    parts = [sample(rng, size, 0) for _ in range(frames)]
    track = TrackDataSample()
    for index, part in enumerate(parts):
        part["data_samples"].set_metainfo({"frame_id": index, "ori_video_length": frames, "is_video_data": True})
    track.video_data_samples = [part["data_samples"] for part in parts]
    track.set_metainfo({"key_frames_inds": [0], "ref_frames_inds": list(range(1, frames))})
    return {"inputs": torch.stack([part["inputs"] for part in parts]), "data_samples": track}


def _semi_supervised(
    rng: np.random.Generator, sample: Callable[[np.random.Generator, int, int], Batch], size: int
) -> Batch:
    branches = {name: sample(rng, size, 0) for name in ("sup", "unsup_teacher", "unsup_student")}
    return {key: {name: [branch[key]] for name, branch in branches.items()} for key in ("inputs", "data_samples")}
