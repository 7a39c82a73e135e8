"""Mask2Former of mmdet and mmseg as a graph of free size."""

from typing import Any

import torch
import torch.nn.functional as F
from mmdet.models import Mask2FormerHead, MaskFormer
from mmdet.models.layers import MSDeformAttnPixelDecoder
from mmdet.models.seg_heads import MaskFormerFusionHead
from torch import Tensor, nn

from adapters.export.verification import TOLERANCE
from adapters.kernels.free_sizes import with_plain_sizes
from adapters.openmmlab.export.deformable import Sizes, cell_centres, free_deformable_attention
from adapters.openmmlab.export.graphs import Graph, Whole, refuse, require_decoding_of


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
    """Images ``(B, C, H, W)`` -> what Mask2Former's queries give.

    The outputs are logits ``(B, Q, classes + 1)`` and masks ``(B, Q, h, w)``, and then for each layer of the decoder
    the cells ``(B, Q, N_i)`` that its queries do not look at, those beyond the mask so far. Whether a cell is beyond it
    is a choice: it is where the mask is negative, and a mask crosses zero somewhere.
    """

    def __init__(self, model: nn.Module, head: Mask2FormerHead) -> None:
        super().__init__()
        self.model: Any = model
        self.head: Any = head

    def forward(self, image: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        """Compute the outputs of the last layer.

        Args:
            image: ``(B, C, H, W)``.
            given: the cells that are not looked at, in the place of the head's own where these are near zero.
        """
        own = self.head
        mask_features, memories = own.pixel_decoder(self.model.extract_feat(image))
        cells, positions = zip(*(self._cells(level, one) for level, one in enumerate(memories)), strict=True)
        queries = own.query_feat.weight.expand(image.shape[0], -1, -1)
        embeddings = own.query_embed.weight.expand(image.shape[0], -1, -1)
        hidden = []
        for index, layer in enumerate(own.transformer_decoder.layers):
            level = index % len(memories)
            _, masks = self._read(queries, mask_features)
            coarse = F.interpolate(masks, memories[level].shape[-2:], mode="bilinear", align_corners=False).flatten(2)
            beyond = coarse.sigmoid() < 0.5
            if given:
                is_near = coarse.abs() <= TOLERANCE * coarse.abs().amax()
                beyond = torch.where(is_near, given[index], beyond)
            hidden.append(beyond)
            is_ignored = beyond & ~beyond.all(-1, keepdim=True)  # an empty mask looks everywhere
            queries = layer(
                query=queries,
                key=cells[level],
                value=cells[level],
                query_pos=embeddings,
                key_pos=positions[level],
                cross_attn_mask=is_ignored[:, None].expand(-1, own.num_heads, -1, -1).flatten(0, 1),
                query_key_padding_mask=None,
                key_padding_mask=None,
            )
        return (*self._read(queries, mask_features), *hidden)

    def _cells(self, level: int, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cells of a level and their positions, ``(B, N, D)`` each."""
        cells = self.head.decoder_input_projs[level](memory).flatten(2).transpose(1, 2)
        positions = self.head.decoder_positional_encoding(None, input=memory).flatten(2).transpose(1, 2)
        return cells + self.head.level_embed.weight[level], positions

    def _read(self, queries: Tensor, mask_features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the classes ``(B, Q, classes + 1)`` and masks ``(B, Q, h, w)`` of queries ``(B, Q, D)``."""
        queries = self.head.transformer_decoder.post_norm(queries)
        masks = torch.einsum("bqc,bchw->bqhw", self.head.mask_embed(queries), mask_features)
        return self.head.cls_embed(queries), masks


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


def mask_graph(model: nn.Module, head: Any) -> Graph:
    """Make the graph of a model with a ``Mask2FormerHead``, whose pixel decoder is replaced in place.

    Raises:
        ValueError: the head is another.
    """
    is_own = isinstance(head, Mask2FormerHead) and type(head).forward is Mask2FormerHead.forward
    if not is_own or type(head)._forward_head is not Mask2FormerHead._forward_head:
        raise refuse(type(head).__name__, "of the heads that give masks of queries Mask2FormerHead is exported")
    if isinstance(head.pixel_decoder, MSDeformAttnPixelDecoder):
        free_deformable_attention(head.pixel_decoder)
        head.pixel_decoder = FreePixelDecoder(head.pixel_decoder)
    hidden = tuple(f"hidden_{index}" for index in range(len(head.transformer_decoder.layers)))
    return Graph("model", MaskOutputs(model, head), ("image",), ("classes", "masks", *hidden), given=hidden)
