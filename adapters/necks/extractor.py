"""The extractor of ViT-Adapter (arXiv 2205.08534, section 3.4): cells of several maps that read a trunk's tokens."""

from collections.abc import Sequence

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from adapters.necks.deformable_attention import DeformableAttention

#: What is added to a variance below the root.
EPSILON = 1e-6


class ConvFFN(nn.Module):
    """A feed-forward network with a 3x3 depthwise convolution, the same over each of several maps."""

    def __init__(self, channels: int, hidden_channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden_channels)
        self.conv = nn.Conv2d(hidden_channels, hidden_channels, 3, padding=1, groups=hidden_channels)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_channels, channels)
        for layer in (self.fc1, self.fc2):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        nn.init.normal_(self.conv.weight, std=(2 / 9) ** 0.5)
        assert self.conv.bias is not None
        nn.init.zeros_(self.conv.bias)

    def forward(self, cells: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
        """Compute the cells ``(B, Q, C)`` of maps of these sizes ``(h, w)``, one map after the other; same shape."""
        parts = self.fc1(cells).split([height * width for height, width in sizes], dim=1)
        maps = (part.transpose(1, 2).unflatten(2, size) for part, size in zip(parts, sizes, strict=True))
        cells = torch.cat([self.conv(feature_map).flatten(2) for feature_map in maps], dim=2).transpose(1, 2)
        return self.fc2(self.act(cells))


class Extractor(nn.Module):
    """Deformable attention from the cells of several maps to a trunk's tokens, then a feed-forward network.

    Args:
        channels: channels of the cells.
        token_channels: channels of the tokens.
        num_heads, num_points, value_ratio, use_mmcv: those of :class:`DeformableAttention`.
        ffn_ratio: hidden channels of the network for each channel of the cells; 0 for no network.
        drop_path_rate: the rate of stochastic depth of the network.
    """

    def __init__(
        self,
        channels: int,
        token_channels: int,
        num_heads: int,
        num_points: int,
        value_ratio: float,
        ffn_ratio: float,
        drop_path_rate: float,
        use_mmcv: bool,
    ) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(channels, eps=EPSILON)
        self.feat_norm = nn.LayerNorm(token_channels, eps=EPSILON)
        self.attn = DeformableAttention(channels, token_channels, num_heads, num_points, value_ratio, use_mmcv)
        self.ffn: nn.Module | None = None
        if ffn_ratio > 0:
            self.ffn = ConvFFN(channels, max(int(channels * ffn_ratio), 1))
            self.ffn_norm = nn.LayerNorm(channels, eps=EPSILON)
            self.drop_path = DropPath(drop_path_rate)

    def forward(self, cells: Tensor, sizes: Sequence[tuple[int, int]], places: Tensor, feature_map: Tensor) -> Tensor:
        """Let the cells read the trunk's map.

        Args:
            cells: ``(B, Q, C)``, those of maps of these sizes, one after the other.
            sizes: ``(h, w)`` of each.
            places: ``(Q, 2)``, x and y of the cells' centres in the trunk's map, in its cells.
            feature_map: ``(B, C_t, h, w)`` of the trunk.

        Returns:
            ``(B, Q, C)``.
        """
        tokens = self.feat_norm(feature_map.flatten(2).transpose(1, 2))
        cells = cells + self.attn(self.query_norm(cells), places, tokens, feature_map.shape[-2:])
        if self.ffn is None:
            return cells
        return cells + self.drop_path(self.ffn(self.ffn_norm(cells), sizes))
