"""Faster and Mask R-CNN of mmdet as two or three graphs, between which proposals and boxes are chosen in numpy.

The choice is non-maximum suppression with as many results as there are. In a graph of its own each stage has fixed
shapes but for the number of boxes, so that what mmdet computes is computed exactly, by standard operators, and the
files need no operators of torchvision's or mmcv's.
"""

from typing import Any

import torch
from mmcv.ops import RoIAlign
from mmdet.models import BBoxHead, FCNMaskHead, RPNHead, SingleRoIExtractor, StandardRoIHead
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.roi_heads.roi_extractors import BaseRoIExtractor
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder
from torch import Tensor, nn
from torchvision.ops import roi_align

from adapters.openmmlab.export.dense import by_part, describe_deltas, describe_priors, flatten, output_names
from adapters.openmmlab.export.graphs import Graph, Whole, nms_settings, refuse, require_decoding_of


class ProposalOutputs(nn.Module):
    """Images ``(B, C, H, W)`` -> the maps that the second stage reads, and what the RPN says of each level's cells."""

    def __init__(self, model: Any, maps: int) -> None:
        super().__init__()
        self.model, self.maps = model, maps

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Compute maps ``(B, C_i, h_i, w_i)``, then logits ``(B, A, h_i, w_i)`` and boxes ``(B, 4 * A, h_i, w_i)``."""
        maps = self.model.extract_feat(image)
        return (*maps[: self.maps], *flatten(self.model.rpn_head(maps)))


class RoiFeatures(nn.Module):
    """mmdet's ``SingleRoIExtractor``: each box is read from the level of its size.

    mmdet gathers the boxes of each level, whose number is known to no graph. Here every level reads all boxes, those of
    other levels as a box of one pixel, which costs next to nothing, and the results are chosen.
    """

    def __init__(self, extractor: SingleRoIExtractor) -> None:
        super().__init__()
        self.extractor = extractor

    def forward(self, maps: tuple[Tensor, ...], rois: Tensor) -> Tensor:
        """Read boxes ``(N, 5)``, the number of the image first, from maps ``(B, C, h_i, w_i)``: ``(N, C, S, S)``."""
        maps = maps[: self.extractor.num_inputs]
        levels = self.extractor.map_roi_levels(rois, len(maps))
        pixel = rois.new_tensor([0.0, 0.0, 0.0, 1.0, 1.0])
        total: Tensor | None = None
        for level, (feature_map, layer) in enumerate(zip(maps, self.extractor.roi_layers, strict=True)):
            is_here = levels == level
            boxes = torch.where(is_here[:, None], rois, pixel)
            read = roi_align(
                feature_map, boxes, layer.output_size, layer.spatial_scale, layer.sampling_ratio, layer.aligned
            )
            read = torch.where(is_here[:, None, None, None], read, torch.zeros_like(read))
            total = read if total is None else total + read
        assert total is not None, "an extractor reads from one level at least"
        return total


class RoiOutputs(nn.Module):
    """Boxes and maps -> what a head of the second stage says of each box."""

    def __init__(self, extractor: SingleRoIExtractor, head: nn.Module) -> None:
        super().__init__()
        self.features, self.head = RoiFeatures(extractor), head

    def forward(self, rois: Tensor, *maps: Tensor) -> tuple[Tensor, ...]:
        """Compute for ``(N, 5)`` logits ``(N, classes + 1)`` and deltas, or masks ``(N, classes, h, w)``."""
        outputs = self.head(self.features(maps, rois))
        return outputs if isinstance(outputs, tuple) else (outputs,)


def describe_two_stage(model: Any, image: Tensor) -> Whole:
    """Describe a two-stage detector of mmdet.

    Args:
        model: in eval mode.
        image: any ``(B, C, H, W)`` that it takes.

    Raises:
        ValueError: it has other heads than Faster and Mask R-CNN, or ones that decode in a way of their own.
    """
    rpn, roi = model.rpn_head, model.roi_head
    _check_heads(model)
    extractors = [roi.bbox_roi_extractor, *([roi.mask_roi_extractor] if roi.with_mask else [])]
    count = max(extractor.num_inputs for extractor in extractors)
    maps = tuple(f"map_{level}" for level in range(count))
    names = output_names(len(rpn(model.extract_feat(image))[0]), 2, "rpn_")
    graphs = [
        Graph("model", ProposalOutputs(model, count), ("image",), (*maps, *by_part(names))),
        Graph("boxes", RoiOutputs(extractors[0], roi.bbox_head), ("rois", *maps), ("classes", "deltas")),
    ]
    test, first = model.test_cfg.rcnn, model.test_cfg.rpn
    if roi.with_mask:
        graphs.append(Graph("masks", RoiOutputs(extractors[1], roi.mask_head), ("rois", *maps), ("masks",)))
        if test.mask_thr_binary < 0:
            raise refuse("MaskRCNN", "its test_cfg has a negative mask_thr_binary, for pictures of scores")
    decoding = {
        "maps": list(maps),
        "rpn": {
            **describe_priors(rpn, type(rpn).__name__),
            "outputs": names,
            "before_nms": int(first.get("nms_pre", -1)),
            "least_side": float(first.get("min_bbox_size", -1)),
            "most": int(first.max_per_img),
            "nms": nms_settings(first.get("nms"), type(rpn).__name__),
        },
        "second": {
            "coder": describe_deltas(roi.bbox_head.bbox_coder),
            "score_threshold": float(test.score_thr),
            "most": int(test.max_per_img),
            "nms": nms_settings(test.nms, type(roi.bbox_head).__name__),
        },
        "mask_threshold": float(test.mask_thr_binary) if roi.with_mask else None,
    }
    head = type(roi.mask_head if roi.with_mask else roi.bbox_head).__name__
    return Whole("two_stage", "instances" if roi.with_mask else "boxes", head, tuple(graphs), decoding)


def _check_heads(model: Any) -> None:
    """Require the heads of Faster and Mask R-CNN.

    Raises:
        ValueError: they are others.
    """
    rpn, roi = model.rpn_head, model.roi_head
    if not isinstance(rpn, RPNHead):
        raise refuse(type(rpn).__name__, "it proposes boxes, and only those of an RPNHead are decoded")
    require_decoding_of(rpn, BaseDenseHead, ("predict", "predict_by_feat"))
    require_decoding_of(rpn, RPNHead, ("_predict_by_feat_single", "_bbox_post_process"))
    if type(roi) is not StandardRoIHead or roi.with_shared_head:
        what = "with a shared head" if type(roi) is StandardRoIHead else "of its kind"
        raise refuse(type(roi).__name__, f"only a StandardRoIHead without a shared head is exported, not one {what}")
    require_decoding_of(roi.bbox_head, BBoxHead, ("predict_by_feat", "_predict_by_feat_single"))
    if type(roi.bbox_head.bbox_coder) is not DeltaXYWHBBoxCoder or roi.bbox_head.custom_cls_channels:
        raise refuse(type(roi.bbox_head).__name__, "its coder or its loss is another than Mask R-CNN's")
    if roi.with_mask:
        require_decoding_of(roi.mask_head, FCNMaskHead, ("predict_by_feat", "_predict_by_feat_single"))
    for extractor in (roi.bbox_roi_extractor, roi.mask_roi_extractor if roi.with_mask else roi.bbox_roi_extractor):
        _check_extractor(extractor)


def _check_extractor(extractor: BaseRoIExtractor) -> None:
    layers = list(extractor.roi_layers)
    if type(extractor) is not SingleRoIExtractor or not all(isinstance(layer, RoIAlign) for layer in layers):
        raise refuse(type(extractor).__name__, "only a SingleRoIExtractor with RoIAlign is exported")
    if any(layer.pool_mode != "avg" for layer in layers):
        raise refuse(type(extractor).__name__, "its RoIAlign takes a maximum, and only averages are exported")
