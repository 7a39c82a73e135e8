"""The layer of deformable attention through which the cells of several maps read the tokens of one."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from adapters.kernels.deformable_attention import deformable_attention


class DeformableAttention(nn.Module):
    """Queries that read a few points each of one map, near their own place (Deformable DETR, arXiv 2010.04159).

    Each head starts with points in a direction of its own, the first a cell away and each further one another cell.

    Args:
        channels: channels of the queries and of what leaves the layer.
        token_channels: channels of the map's tokens.
        num_heads: the number of heads.
        num_points: points that a head reads.
        value_ratio: channels of the values for each channel of the queries, rounded down to a multiple of the heads, at
            least one channel a head.
        use_mmcv: see :func:`adapters.kernels.deformable_attention.deformable_attention`.
    """

    def __init__(
        self,
        channels: int,
        token_channels: int,
        num_heads: int,
        num_points: int,
        value_ratio: float,
        use_mmcv: bool = False,
    ) -> None:
        super().__init__()
        self.num_heads, self.num_points, self.use_mmcv = num_heads, num_points, use_mmcv
        value_channels = max(int(channels * value_ratio) // num_heads, 1) * num_heads
        self.sampling_offsets = nn.Linear(channels, num_heads * num_points * 2)
        self.attention_weights = nn.Linear(channels, num_heads * num_points)
        self.value_proj = nn.Linear(token_channels, value_channels)
        self.output_proj = nn.Linear(value_channels, channels)
        self._start()

    @torch.no_grad()
    def _start(self) -> None:
        """Set the weights with which training starts: those of the paper's appendix A.4."""
        for layer in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        angle = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        direction = torch.stack((angle.cos(), angle.sin()), -1)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, self.num_points + 1).view(-1, 1)
        self.sampling_offsets.bias.copy_((direction.unsqueeze(1) * steps).flatten())

    def forward(self, queries: Tensor, places: Tensor, tokens: Tensor, size: Sequence[int]) -> Tensor:
        """Read the tokens.

        Args:
            queries: ``(B, Q, C)``.
            places: ``(Q, 2)``, x and y of the queries in the map, in its cells from its upper left corner.
            tokens: ``(B, h * w, C_t)``.
            size: ``(h, w)``.

        Returns:
            ``(B, Q, C)``.
        """
        batch, count, _ = queries.shape
        height, width = size
        value = self.value_proj(tokens).unflatten(-1, (self.num_heads, -1))
        offsets = self.sampling_offsets(queries).view(batch, count, self.num_heads, self.num_points, 2)
        weights = self.attention_weights(queries).view(batch, count, self.num_heads, self.num_points).softmax(-1)
        positions = places[:, None, None].to(torch.promote_types(offsets.dtype, torch.float32)) + offsets
        x, y = positions.unbind(-1)
        locations = torch.stack((x / width, y / height), -1)
        read = deformable_attention(
            value, [(height, width)], locations.unsqueeze(3), weights.unsqueeze(3), self.use_mmcv
        )
        return self.output_proj(read)
