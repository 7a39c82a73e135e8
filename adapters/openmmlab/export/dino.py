"""DINO of mmdet as a graph of free size."""

from typing import Any

import torch
from mmdet.models import DINO, DINOHead
from mmdet.models.dense_heads import DETRHead
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
