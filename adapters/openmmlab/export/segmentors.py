"""Segmentors of mmseg: a graph that ends at the logits of the classes, or at Mask2Former's queries."""

from typing import Any

from mmdet.models import Mask2FormerHead as QueryHead
from mmseg.models import EncoderDecoder
from mmseg.models.decode_heads import Mask2FormerHead
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn

from adapters.openmmlab.export.free_sizes import free_sizes
from adapters.openmmlab.export.graphs import Graph, Whole, refuse, require_decoding_of
from adapters.openmmlab.export.mask_queries import mask_graph


class LogitOutputs(nn.Module):
    """Images ``(B, C, H, W)`` -> the logits of the classes ``(B, classes, h, w)`` that a decode head gives."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor]:
        """Compute the logits, ``(B, C, H, W)`` -> as the class says."""
        return (self.model.decode_head(self.model.extract_feat(image)),)


def describe_segmentor(model: Any) -> Whole:
    """Describe a segmentor of mmseg, some of whose layers are replaced in place.

    Raises:
        ValueError: the segmentor is no plain ``EncoderDecoder``, or its head predicts in a way of its own.
    """
    head, test = model.decode_head, model.test_cfg
    # A backbone with batch_padding='exact' has made a class of the same name of it.
    methods = ("inference", "whole_inference", "slide_inference", "postprocess_result", "encode_decode", "extract_feat")
    require_decoding_of(model, EncoderDecoder, methods)
    is_query_head = isinstance(head, QueryHead)
    if is_query_head:
        require_decoding_of(head, Mask2FormerHead, ("predict",))
        graph = mask_graph(model, head)
    elif isinstance(head, BaseDecodeHead):
        require_decoding_of(head, BaseDecodeHead, ("predict", "predict_by_feat"))
        free_sizes(head)
        graph = Graph("model", LogitOutputs(model), ("image",), ("logits",))
    else:
        raise refuse(type(head).__name__, "it is no decode head of mmseg's")
    slides = test.get("mode", "whole") == "slide"
    decoding = {
        "window": list(test.crop_size) if slides else None,
        "stride": list(test.stride) if slides else None,
        "align_corners": bool(head.align_corners),
        "threshold": None if is_query_head or head.threshold is None else float(head.threshold),
    }
    return Whole("label_map", "label map", type(head).__name__, (graph,), decoding)
