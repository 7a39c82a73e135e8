"""SwinV2-CR, timm's reading of Swin Transformer V2 (arXiv 2111.09883) by Christoph Reich, at any image size."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from timm.models.swin_transformer_v2_cr import SwinTransformerV2CrBlock, WindowMultiHeadAttention
from torch import Tensor

from adapters.base import BackboneAdapter
from adapters.families.grafting import graft
from adapters.registry import register_model

#: What timm adds to the score of two tokens that the cyclic shift has brought together.
SHIFT_MASK = -100.0


class WindowAttention(WindowMultiHeadAttention):
    """Scaled cosine attention with a log-spaced position bias, for windows of any extent."""

    def queries_keys_values(self, windows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``(..., L, C)`` -> three ``(..., heads, L, C / heads)``: queries and keys of unit length, queries scaled."""
        head_dim = windows.shape[-1] // self.num_heads
        query, key, value = self.qkv(windows).unflatten(-1, (3, self.num_heads, head_dim)).unbind(-3)
        scale = self.logit_scale.clamp(max=math.log(1.0 / 0.01)).exp().view(self.num_heads, 1)
        query = (F.normalize(query, dim=-1) * scale).to(value.dtype)
        key = F.normalize(key, dim=-1).to(value.dtype)
        return query.transpose(-3, -2), key.transpose(-3, -2), value.transpose(-3, -2)

    def attend(self, qkv: Sequence[Tensor], scores: Tensor) -> Tensor:
        """Attention of windows that share a bias and a mask.

        Args:
            qkv: queries, keys and values, each ``(B, rows, columns, heads, L, C / heads)``.
            scores: ``(heads, L, L)``, added to every window's.

        Returns:
            ``(B, rows, columns, L, C)``.
        """
        batch, rows, columns, heads, area, head_dim = qkv[0].shape
        query, key, value = (part.reshape(-1, heads, area, head_dim) for part in qkv)
        dropout = self.attn_drop.p if self.training else 0.0
        x = F.scaled_dot_product_attention(query, key, value, scores.unsqueeze(0), dropout_p=dropout, scale=1.0)
        return x.transpose(1, 2).reshape(batch, rows, columns, area, heads * head_dim)

    def position_bias(self, extent: tuple[int, int]) -> Tensor:
        """``(heads, L, L)``, the bias of the meta network for windows of ``extent`` (``L`` is their product).

        A pair's bias depends on its offset alone, so the network sees each of the ``(2h - 1)(2w - 1)`` distinct offsets
        once. With its dropout active, timm draws a mask for every pair, and so does this.
        """
        height, width = extent
        device = self.logit_scale.device
        rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
        row_offset = (rows[:, None] - rows[None, :])[:, None, :, None].expand(height, width, height, width)
        column_offset = (columns[:, None] - columns[None, :])[None, :, None, :].expand(height, width, height, width)
        if self.training and self.meta_mlp.drop1.p > 0:
            offsets = torch.stack((row_offset, column_offset), dim=-1).reshape(-1, 2)
            return self._bias_of(offsets).t().reshape(self.num_heads, height * width, height * width)
        offsets = torch.cartesian_prod(
            torch.arange(1 - height, height, device=device), torch.arange(1 - width, width, device=device)
        ).view(-1, 2)
        index = (row_offset + height - 1) * (2 * width - 1) + column_offset + width - 1
        table = self._bias_of(offsets).t()
        return table[:, index.reshape(-1)].view(self.num_heads, height * width, height * width)

    def _bias_of(self, offsets: Tensor) -> Tensor:
        """``(n, 2)`` integer offsets -> ``(n, heads)``."""
        offsets = offsets.to(self.logit_scale.dtype)
        return self.meta_mlp(offsets.sign() * torch.log1p(offsets.abs()))


@dataclass(frozen=True)
class Axis:
    """One side of a stage's grid: ``size`` cells, padded to ``count`` windows and rolled by ``shift``."""

    size: int
    window: int
    shift: int

    @classmethod
    def of(cls, size: int, full_window: int, shifted: bool) -> "Axis":
        """A grid no larger than a window is one window, neither padded nor shifted."""
        return cls(size, min(size, full_window), full_window // 2 if shifted and size > full_window else 0)

    @property
    def pad(self) -> int:
        return -self.size % self.window

    @property
    def count(self) -> int:
        return -(-self.size // self.window)

    def runs(self, device: torch.device) -> Iterator[tuple[slice, Tensor | None]]:
        """Split the windows into runs of alike ones: first those without a mask, then each one with.

        Yields:
            The windows' indices, and for a masked window a label for each of its cells: -1 for a pad, 1 for what the
            roll brought over from the other side, 0 for the rest.
        """
        plain = self.count - 1 if self.shift else self.count
        if self.pad:
            plain = min(plain, (self.size - self.shift) // self.window)
        if plain:
            yield slice(0, plain), None
        for index in range(plain, self.count):
            rolled = torch.arange(index * self.window, (index + 1) * self.window, device=device)
            padded = self.size + self.pad
            is_pad = (rolled + self.shift) % padded >= self.size
            yield slice(index, index + 1), (rolled >= padded - self.shift).long().masked_fill(is_pad, -1)


def window_mask(row_labels: Tensor, column_labels: Tensor, dtype: torch.dtype) -> Tensor:
    """Scores to add in a window whose cells carry these labels, ``(L, L)``: nothing attends a pad."""
    same_row = row_labels[:, None] == row_labels[None, :]
    same_column = column_labels[:, None] == column_labels[None, :]
    same = (same_row[:, None, :, None] & same_column[None, :, None, :]).flatten(2).flatten(0, 1)
    is_pad = ((row_labels < 0)[:, None] | (column_labels < 0)[None, :]).flatten()
    scores = torch.zeros(same.shape, dtype=dtype, device=same.device)
    return scores.masked_fill(~same, SHIFT_MASK).masked_fill(is_pad, float("-inf"))


class AnySizeBlock(SwinTransformerV2CrBlock):
    """A block whose windows, shift and masks follow the size of each input, and where no pad is attended."""

    #: Sides of a full window, fixed by the pretraining whatever size the model was built for.
    full_window: tuple[int, int]

    def _shifted_window_attn(self, x: Tensor) -> Tensor:
        """``(B, H, W, C)`` -> the same shape: pad right and bottom, roll, attend, roll back, crop."""
        height, width = x.shape[1:3]
        shifted = any(self.target_shift_size)
        rows = Axis.of(height, self.full_window[0], shifted)
        columns = Axis.of(width, self.full_window[1], shifted)
        if rows.pad or columns.pad:
            x = F.pad(x, (0, 0, 0, columns.pad, 0, rows.pad))
        if rows.shift or columns.shift:
            x = torch.roll(x, shifts=(-rows.shift, -columns.shift), dims=(1, 2))
        x = self._attend(x, rows, columns)
        if rows.shift or columns.shift:
            x = torch.roll(x, shifts=(rows.shift, columns.shift), dims=(1, 2))
        return x[:, :height, :width]

    def _attend(self, x: Tensor, rows: Axis, columns: Axis) -> Tensor:
        """Window attention on the padded and rolled map, ``(B, H', W', C)`` -> the same shape.

        Only the last windows of each axis can hold pads or rolled cells, so the masks belong to a few rows and columns
        of windows, and the others are attended without any.
        """
        batch, padded_height, padded_width, channels = x.shape
        height, width = rows.window, columns.window
        x = x.view(batch, rows.count, height, columns.count, width, channels).transpose(2, 3)
        x = x.reshape(batch, rows.count, columns.count, height * width, channels)
        attn = cast(WindowAttention, self.attn)
        qkv = attn.queries_keys_values(x)
        bias = attn.position_bias((height, width)).to(qkv[0].dtype)
        unlabelled = torch.zeros(max(height, width), dtype=torch.long, device=x.device)
        bands = []
        for row_run, row_labels in rows.runs(x.device):
            band = []
            for column_run, column_labels in columns.runs(x.device):
                scores = bias
                if row_labels is not None or column_labels is not None:
                    scores = bias + window_mask(
                        unlabelled[:height] if row_labels is None else row_labels,
                        unlabelled[:width] if column_labels is None else column_labels,
                        bias.dtype,
                    )
                band.append(attn.attend([part[:, row_run, column_run] for part in qkv], scores))
            bands.append(torch.cat(band, dim=2) if len(band) > 1 else band[0])
        x = torch.cat(bands, dim=1) if len(bands) > 1 else bands[0]
        x = attn.proj_drop(attn.proj(x)).view(batch, rows.count, columns.count, height, width, channels)
        return x.transpose(2, 3).reshape(batch, padded_height, padded_width, channels)


@register_model
class SwinV2CrAdapter(BackboneAdapter):
    """SwinV2-CR: strides 4, 8, 16, 32 at any size, with windows of the pretrained size throughout.

    The reference is timm built with ``img_size=(H, W)`` and the pretrained ``window_size`` wherever each stage's grid
    is a multiple of the window or no larger. Elsewhere grids are padded right and bottom, then rolled, and no pad is
    attended (timm rolls first, attends the pads and misplaces the mask).
    """

    timm_modules = ("swin_transformer_v2_cr",)
    sizing = {"strict_img_size": False}

    @property
    def pad_multiple(self) -> int:
        """The patch: patch merging rounds up by itself, as it does in timm."""
        return self.stage_levels[0].stride

    def adapt_trunk(self) -> None:
        super().adapt_trunk()
        for stage, window in zip(self.trunk.stages, self.trunk._ref_window_sizes, strict=True):
            stage.grad_checkpointing = self.with_cp
            for block in stage.blocks:
                graft(block, AnySizeBlock).full_window = window
                graft(block.attn, WindowAttention)
