"""Multi-scale deformable attention at free sizes, for DINO and for the pixel decoder of Mask2Former.

mmdet and mmcv keep the sizes of the maps in a tensor, whose values no exported graph knows. Here they are the maps'
own, a list of pairs, and mmcv's attention becomes ours, of standard operators, with mmcv's weights.
"""

from collections.abc import Sequence
from typing import Any

import torch
from mmcv.ops import MultiScaleDeformableAttention
from torch import Tensor, nn

from adapters.kernels.deformable_attention import deformable_attention

Sizes = Sequence[tuple[int, int]]


class FreeDeformableAttention(nn.Module):
    """mmcv's ``MultiScaleDeformableAttention`` in eval mode, which takes ``spatial_shapes`` as a list of pairs.

    Args:
        attention: mmcv's, whose layers it computes with.
    """

    def __init__(self, attention: MultiScaleDeformableAttention) -> None:
        super().__init__()
        self.attention = attention

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,  # noqa: ARG002, it has no part in this attention
        value: Tensor | None = None,
        identity: Tensor | None = None,
        query_pos: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
        reference_points: Tensor | None = None,
        spatial_shapes: Sizes = (),
        **others: Any,  # noqa: ARG002, mmcv's, such as the levels' first cells
    ) -> Tensor:
        """Attend from queries ``(B, Q, D)`` to the cells of all levels ``(B, N, D)``, as mmcv's module does.

        Args:
            query: where attention starts.
            key: of no use.
            value: the cells; default: the queries.
            identity: what the result is added to; default: the queries.
            query_pos: positions ``(B, Q, D)``, added to the queries.
            key_padding_mask: must be None.
            reference_points: ``(B, Q, levels, 2)`` or boxes ``(B, Q, levels, 4)``.
            spatial_shapes: ``(h, w)`` of each level.
        """
        own: Any = self.attention
        assert own.batch_first
        assert key_padding_mask is None
        assert reference_points is not None
        value, identity = query if value is None else value, query if identity is None else identity
        query = query if query_pos is None else query + query_pos
        batch, queries = query.shape[:2]
        shape = (batch, queries, own.num_heads, own.num_levels, own.num_points)
        values = own.value_proj(value).unflatten(-1, (own.num_heads, -1))
        offsets = own.sampling_offsets(query).view(*shape, 2)
        weights = own.attention_weights(query).view(*shape[:3], -1).softmax(-1).view(shape)
        places = reference_points[:, :, None, :, None, :]
        if reference_points.shape[-1] == 2:
            locations = places + offsets / sizes_tensor(spatial_shapes, query)[:, None]
        else:
            locations = places[..., :2] + offsets / own.num_points * places[..., 2:] * 0.5
        attended = deformable_attention(values, spatial_shapes, locations, weights)
        return own.output_proj(attended) + identity


def sizes_tensor(sizes: Sizes, like: Tensor) -> Tensor:
    """Return the widths and heights of levels, ``(levels, 2)``, on the device and of the dtype of another tensor.

    Args:
        sizes: ``(h, w)`` of each level.
        like: of any shape.
    """
    return torch.stack([torch.stack([torch.full_like(like[0, 0, 0], side) for side in (w, h)]) for h, w in sizes])


def free_deformable_attention(model: nn.Module) -> None:
    """Replace mmcv's attention in a copy of a model that is to be exported, in place."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, MultiScaleDeformableAttention):
                setattr(module, name, FreeDeformableAttention(child))


def cell_centres(size: tuple[int, int], like: Tensor) -> Tensor:
    """Return the centres of a map's cells, ``(h * w, 2)``, x and y in shares of the map.

    Args:
        size: ``(h, w)``.
        like: of any shape, for its device and dtype.
    """
    y, x = ((torch.arange(side, device=like.device).to(like.dtype) + 0.5) / side for side in size)
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([columns.reshape(-1), rows.reshape(-1)], -1)
