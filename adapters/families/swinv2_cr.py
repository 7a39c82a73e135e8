"""SwinV2-CR, timm's reading of Swin Transformer V2 (arXiv 2111.09883) by Christoph Reich, at any image size."""

import math
from typing import cast

import torch
from timm.models.swin_transformer_v2_cr import PatchMerging, SwinTransformerV2CrBlock, WindowMultiHeadAttention
from torch import Tensor

from adapters.base import BackboneAdapter
from adapters.kernels.free_sizes import with_plain_sizes
from adapters.kernels.mlp import is_untouched_mlp
from adapters.kernels.packed_attention import attend_packed
from adapters.registry import register_model
from adapters.trunk.memo import Memo
from adapters.trunk.recompute import RecomputingTrunk, recompute_blocks
from adapters.trunk.surgery import graft
from adapters.windows.attention import attend_in_windows
from adapters.windows.partition import Axis

#: What timm adds to the score of two tokens that the cyclic shift has brought together.
SHIFT_MASK = -100.0


class WindowAttention(WindowMultiHeadAttention):
    """Scaled cosine attention with a log-spaced position bias, for windows of any extent."""

    #: Position biases by the window's extent.
    biases: Memo

    def attend(self, tokens: Tensor, batch: int, rows: Axis, columns: Axis) -> Tensor:
        """Attend within windows, ``(B * H * W, C)`` -> the same shape, before the output projection."""
        bias = self.position_bias((rows.window, columns.window))
        dropout = self.attn_drop.p if self.training else 0.0

        def attend_qkv(qkv: Tensor, mask: Tensor | None) -> Tensor:
            return attend_packed(qkv, bias if mask is None else bias + mask, dropout, scale=1.0)

        return attend_in_windows(tokens, batch, rows, columns, self._project_qkv, attend_qkv, SHIFT_MASK)

    def _project_qkv(self, tokens: Tensor) -> Tensor:
        """Project ``(n, L, C)`` to ``(n, L, 3, heads, C / heads)``: queries and keys of unit length, queries scaled."""
        head_dim = tokens.shape[-1] // self.num_heads
        qkv = self.qkv(tokens).unflatten(-1, (3, self.num_heads, head_dim))
        # 1e-12 is the eps of torch's normalize, which timm calls.
        length = torch.linalg.vector_norm(qkv[:, :, :2], dim=-1, keepdim=True).clamp_min(1e-12)
        scale = self.logit_scale.clamp(max=math.log(1.0 / 0.01)).exp()
        factor = (torch.stack((scale, torch.ones_like(scale))).unsqueeze(-1) / length).to(qkv.dtype)
        if not torch.is_grad_enabled() and not torch.compiler.is_exporting():
            qkv[:, :, :2].mul_(factor)
            return qkv
        # Values times one: splitting them off would cost the backward pass more.
        return qkv * torch.cat((factor, torch.ones_like(factor[:, :, :1])), dim=2)

    def position_bias(self, extent: tuple[int, int]) -> Tensor:
        """Return the bias of the meta network for windows of ``extent``, ``(heads, L, L)`` (``L`` is their product).

        In eval mode it is evaluated again only once the network's parameters have changed; always, where the network is
        not timm's own any more (LoRA, quantisation, a hook).
        """
        if self.training or not is_untouched_mlp(self.meta_mlp):
            return self._evaluate_bias(extent)
        return self.biases.get(extent, list(self.meta_mlp.parameters()), lambda: self._evaluate_bias(extent))

    def train(self, mode: bool = True) -> "WindowAttention":
        """Switch mode, and evaluate the position bias anew."""
        self.biases.clear()
        super().train(mode)
        return self

    def _evaluate_bias(self, extent: tuple[int, int]) -> Tensor:
        """Compute the bias from the parameters as they are, ``(heads, L, L)``.

        A pair's bias depends on its offset alone, so the network sees each of the ``(2h - 1)(2w - 1)`` distinct offsets
        once. With its dropout active, timm draws a mask for every pair, and so does this.
        """
        height, width = extent
        device = self.logit_scale.device
        rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
        down = (rows[:, None] - rows[None, :])[:, None, :, None].expand(height, width, height, width).reshape(-1)
        right = (columns[:, None] - columns[None, :])[None, :, None, :].expand(height, width, height, width).reshape(-1)
        if self.training and self.meta_mlp.drop1.p > 0:
            bias = self._bias_of(torch.stack((down, right), dim=-1))
        else:
            reach = torch.arange(1 - height, height, device=device), torch.arange(1 - width, width, device=device)
            distinct = torch.stack((reach[0].repeat_interleave(2 * width - 1), reach[1].repeat(2 * height - 1)), dim=-1)
            bias = self._bias_of(distinct)[(down + height - 1) * (2 * width - 1) + right + width - 1]
        return bias.t().reshape(self.num_heads, height * width, height * width)

    def _bias_of(self, offsets: Tensor) -> Tensor:
        """Evaluate the meta network at ``(n, 2)`` integer offsets, ``(n, heads)``."""
        offsets = offsets.to(self.logit_scale.dtype)
        return self.meta_mlp(offsets.sign() * torch.log1p(offsets.abs()))


class AnySizeBlock(SwinTransformerV2CrBlock):
    """A block whose windows, shift and masks follow the size of each input, and in which no pad is attended."""

    #: Sides of a full window, fixed by the pretraining whatever size the model was built for.
    full_window: tuple[int, int]

    def _shifted_window_attn(self, x: Tensor) -> Tensor:
        """Pad right and bottom, roll, attend in windows and undo all that, ``(B, H, W, C)`` -> the same shape."""
        shifted = any(self.target_shift_size)
        rows, columns = (
            window_axis(size, full, shifted) for size, full in zip(x.shape[1:3], self.full_window, strict=True)
        )
        attn = cast(WindowAttention, self.attn)
        tokens = attn.attend(x.reshape(-1, x.shape[-1]), x.shape[0], rows, columns)
        return attn.proj_drop(attn.proj(tokens)).view(x.shape)


class PlainMerging(PatchMerging):
    """Patch merging as timm's, after which the trace of an export forgets the formulas of the sizes."""

    def forward(self, x: Tensor) -> Tensor:
        """Halve the map, ``(B, H, W, C)`` -> ``(B, ceil(H / 2), ceil(W / 2), 2 C)``."""
        return with_plain_sizes(super().forward(x), (1, 2))


def window_axis(size: int, full_window: int, shifted: bool) -> Axis:
    """Cut one side of a stage's grid; a side no larger than a window is one window, neither padded nor shifted."""
    if torch.compiler.is_exporting():  # windows with pads that are not attended give the same
        return Axis(size, full_window, full_window // 2 if shifted else 0)
    return Axis(size, full_window, full_window // 2 if shifted else 0) if size > full_window else Axis(size, size)


@register_model
class SwinV2CrAdapter(RecomputingTrunk, BackboneAdapter):
    """SwinV2-CR: strides 4, 8, 16, 32 at any size, with windows of the pretrained size throughout.

    The reference is timm built with ``img_size=(H, W)`` and the pretrained ``window_size`` wherever each stage's grid
    is a multiple of the window or no larger. Elsewhere grids are padded right and bottom, then rolled, and no pad is
    attended (timm rolls first, attends the pads and misplaces the mask).
    """

    timm_modules = ("swin_transformer_v2_cr",)
    sizing = {"strict_img_size": False}

    @property
    def pad_multiple(self) -> int:
        """The side of a patch: patch merging rounds up by itself, as it does in timm."""
        return self.stage_levels[0].stride

    def adapt_trunk(self) -> None:
        super().adapt_trunk()
        recompute_blocks(self.trunk, self.with_cp)
        for stage, window in zip(self.trunk.stages, self.trunk._ref_window_sizes, strict=True):
            if isinstance(stage.downsample, PatchMerging):
                graft(stage.downsample, PlainMerging)
            for block in stage.blocks:
                graft(block, AnySizeBlock).full_window = window
                graft(block.attn, WindowAttention).biases = Memo()
