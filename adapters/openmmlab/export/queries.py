"""Query heads: DINO of mmdet, and Mask2Former of mmdet and mmseg, as graphs of free size."""

from typing import Any

import torch
import torch.nn.functional as F
from mmdet.models import DINO, DINOHead, Mask2FormerHead, MaskFormer
from mmdet.models.dense_heads import DETRHead, MaskFormerHead
from mmdet.models.layers import MSDeformAttnPixelDecoder
from mmdet.models.seg_heads import MaskFormerFusionHead
from torch import Tensor, nn

from adapters.kernels.free_sizes import with_plain_sizes
from adapters.openmmlab.export.deformable import Sizes, cell_centres, free_deformable_attention
from adapters.openmmlab.export.graphs import Graph, Whole, refuse, require_decoding_of


class DinoOutputs(nn.Module):
    """Images ``(B, C, H, W)`` -> what DINO's queries give.

    The outputs are logits ``(B, Q, classes)``, boxes ``(B, Q, 4)``, the cells ``(B, Q)`` from which the queries start,
    and the scores ``(B, Q)`` for which these were chosen. The steps are those of mmdet's ``DINO`` in eval mode, for
    images without padding.
    """

    def __init__(self, model: DINO) -> None:
        super().__init__()
        self.model: Any = model

    def forward(self, image: Tensor, chosen: Tensor | None = None) -> tuple[Tensor, ...]:
        """Compute the outputs of the last layer.

        Args:
            image: ``(B, C, H, W)``.
            chosen: the cells to start from, ``(B, Q)``, in the place of those of the best scores.
        """
        own = self.model
        maps = [with_plain_sizes(one, (2, 3)) for one in own.extract_feat(image)]
        sizes: Sizes = [(one.shape[2], one.shape[3]) for one in maps]
        cells = with_plain_sizes(torch.cat([one.flatten(2).transpose(1, 2) for one in maps], 1), (1,))
        positions = [own.positional_encoding(None, input=one).flatten(2).transpose(1, 2) for one in maps]
        positions = [one + own.level_embed[level] for level, one in enumerate(positions)]
        whole = image.new_ones(image.shape[0], len(maps), 2)
        centres = torch.cat([cell_centres(size, image) for size in sizes])
        memory = cells
        for layer in own.encoder.layers:
            memory = layer(
                query=memory,
                query_pos=torch.cat(positions, 1),
                key_padding_mask=None,
                spatial_shapes=sizes,
                level_start_index=None,
                valid_ratios=whole,
                reference_points=centres[None, :, None].expand(image.shape[0], -1, len(maps), -1),
            )
        references, chosen, scores = self._choose(memory, centres, sizes, chosen)
        states, references = own.decoder(
            query=own.query_embedding.weight.expand(image.shape[0], -1, -1),
            value=memory,
            key_padding_mask=None,
            self_attn_mask=None,
            reference_points=references,
            spatial_shapes=sizes,
            level_start_index=None,
            valid_ratios=whole,
            reg_branches=own.bbox_head.reg_branches,
        )
        logits, boxes = own.bbox_head(states, list(references))
        return logits[-1], boxes[-1], chosen, scores

    def _choose(
        self, memory: Tensor, centres: Tensor, sizes: Sizes, chosen: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Choose the cells from which the queries start: boxes ``(B, Q, 4)``, the cells' numbers, and their scores."""
        own = self.model
        sides = [
            centres.new_full((height * width, 2), 0.05 * 2.0**level) for level, (height, width) in enumerate(sizes)
        ]
        proposals = torch.cat([centres, torch.cat(sides)], -1)
        is_inside = ((proposals > 0.01) & (proposals < 0.99)).all(-1, keepdim=True)
        unbounded = torch.where(is_inside, torch.log(proposals / (1 - proposals)), float("inf"))
        memory = own.memory_trans_norm(own.memory_trans_fc(torch.where(is_inside, memory, 0.0)))
        last = own.decoder.num_layers
        logits = own.bbox_head.cls_branches[last](memory)
        boxes = own.bbox_head.reg_branches[last](memory) + unbounded
        scores, best = torch.topk(logits.max(-1).values, own.num_queries, dim=1)
        chosen = best if chosen is None else chosen
        return torch.gather(boxes, 1, chosen[..., None].expand(-1, -1, 4)).sigmoid(), chosen, scores


class FreePixelDecoder(nn.Module):
    """mmdet's ``MSDeformAttnPixelDecoder``, whose sizes are its maps' own.

    Args:
        decoder: mmdet's, whose layers it computes with.
    """

    def __init__(self, decoder: MSDeformAttnPixelDecoder) -> None:
        super().__init__()
        self.decoder: Any = decoder

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Compute the mask features ``(B, D, h_0, w_0)``, and the maps that the queries read, the coarsest first.

        Args:
            maps: ``(B, C_i, h_i, w_i)``, the finest first.
        """
        own = self.decoder
        maps = [with_plain_sizes(one, (2, 3)) for one in maps]
        deep = list(reversed(maps))[: own.num_encoder_levels]
        sizes: Sizes = [(one.shape[2], one.shape[3]) for one in deep]
        tokens = [conv(one).flatten(2).transpose(1, 2) for conv, one in zip(own.input_convs, deep, strict=True)]
        cells = with_plain_sizes(torch.cat(tokens, 1), (1,))
        positions = [
            own.postional_encoding(None, input=one).flatten(2).transpose(1, 2) + embedding
            for one, embedding in zip(deep, own.level_encoding.weight, strict=True)
        ]
        centres = torch.cat([cell_centres(size, cells) for size in sizes])
        memory = own.encoder(
            query=cells,
            query_pos=torch.cat(positions, 1),
            key_padding_mask=None,
            spatial_shapes=sizes,
            reference_points=centres[None, :, None].expand(cells.shape[0], -1, len(deep), -1),
            level_start_index=None,
            valid_ratios=None,
        )
        outputs, first = [], 0
        for height, width in sizes:
            level = memory.narrow(1, first, height * width)
            outputs.append(level.transpose(1, 2).unflatten(2, (height, width)))
            first = first + height * width
        shallow = list(reversed(maps))[own.num_encoder_levels :]
        for one, lateral, output in zip(shallow, own.lateral_convs, own.output_convs, strict=True):
            lateral_map = lateral(one)
            coarse = F.interpolate(outputs[-1], size=lateral_map.shape[-2:], mode="bilinear", align_corners=False)
            outputs.append(output(lateral_map + coarse))
        return own.mask_feature(outputs[-1]), outputs[: own.num_outs]


class MaskOutputs(nn.Module):
    """Images ``(B, C, H, W)`` -> logits ``(B, Q, classes + 1)`` and masks ``(B, Q, h, w)`` of Mask2Former's queries."""

    def __init__(self, model: nn.Module, head: Mask2FormerHead) -> None:
        super().__init__()
        self.model: Any = model
        self.head = head

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the outputs of the last layer, ``(B, C, H, W)`` -> as the class says."""
        logits, masks = self.head(self.model.extract_feat(image), [])
        return logits[-1], masks[-1]


def describe_dino(model: DINO) -> Whole:
    """Describe DINO of mmdet, whose deformable attention is replaced in place.

    Raises:
        ValueError: its head decodes its outputs in a way of its own.
    """
    head = model.bbox_head
    if type(model) is not DINO or not isinstance(head, DINOHead):
        raise refuse(type(model).__name__, "of the detectors with queries DINO is exported")
    require_decoding_of(head, DETRHead, ("_predict_by_feat_single",))
    free_deformable_attention(model)
    settings = head.test_cfg or {}
    decoding = {
        "softmax": not head.loss_cls.use_sigmoid,
        "most": int(settings.get("max_per_img", model.num_queries)),
        "queries": int(model.num_queries),
    }
    outputs = ("classes", "boxes", "chosen", "scores")
    graph = Graph("model", DinoOutputs(model), ("image",), outputs, given=("chosen",))
    return Whole(
        "query_boxes", "boxes", type(head).__name__, (graph,), decoding, masks_padding=True, cells=model.num_queries
    )


def describe_mask_former(model: MaskFormer) -> Whole:
    """Describe Mask2Former of mmdet, whose pixel decoder is replaced in place.

    Raises:
        ValueError: its heads are others.
    """
    graph = mask_graph(model, model.panoptic_head)
    fusion = model.panoptic_fusion_head
    methods = ("predict", "panoptic_postprocess", "instance_postprocess")
    if not isinstance(fusion, MaskFormerFusionHead):
        raise refuse(type(fusion).__name__, "only a MaskFormerFusionHead is decoded")
    require_decoding_of(fusion, MaskFormerFusionHead, methods)
    settings = fusion.test_cfg or {}
    panoptic = {
        "score_threshold": float(settings.get("object_mask_thr", 0.8)),
        "overlap": float(settings.get("iou_thr", 0.8)),
        "filter": bool(settings.get("filter_low_score", False)),
    }
    has_panoptic, has_instances = settings.get("panoptic_on", True), settings.get("instance_on", False)
    decoding = {
        "things": int(fusion.num_things_classes),
        "panoptic": panoptic if has_panoptic else None,
        "instances": {"most": int(settings.get("max_per_image", 100))} if has_instances else None,
    }
    task = "panoptic" if has_panoptic else "instances"
    return Whole("query_masks", task, type(model.panoptic_head).__name__, (graph,), decoding)


def mask_graph(model: nn.Module, head: nn.Module) -> Graph:
    """Make the graph of a model with a ``Mask2FormerHead``, whose pixel decoder is replaced in place.

    Raises:
        ValueError: the head is another.
    """
    if not isinstance(head, Mask2FormerHead) or type(head).forward is not Mask2FormerHead.forward:
        raise refuse(type(head).__name__, "of the heads that give masks of queries Mask2FormerHead is exported")
    if isinstance(head, MaskFormerHead) and isinstance(head.pixel_decoder, MSDeformAttnPixelDecoder):
        free_deformable_attention(head.pixel_decoder)
        head.pixel_decoder = FreePixelDecoder(head.pixel_decoder)
    return Graph("model", MaskOutputs(model, head), ("image",), ("classes", "masks"))
