"""Twins PCPVT and SVT (arXiv 2104.13840) for dense prediction."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.models.twins import GlobalSubSampleAttn, LocallyGroupedAttn
from torch import Tensor, nn
from typing_extensions import Unpack

from adapters.base import AdapterOptions, BackboneAdapter
from adapters.families.grafting import graft
from adapters.registry import register_model

WINDOW_PADDINGS = ("zero", "mask", "mmseg")


class WindowAttention(LocallyGroupedAttn):
    """Attention inside ``ws x ws`` windows, over 4-D tensors so that the fused kernels take it."""

    padding: str

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """``(B, H * W, C)`` on an ``H x W`` grid -> the same shape."""
        batch, tokens, channels = x.shape
        height, width = size
        side = self.ws
        bottom, right = -height % side, -width % side
        x = x.view(batch, height, width, channels)
        if bottom or right:
            x = F.pad(x, (0, 0, 0, right, 0, bottom))
        rows, columns = (height + bottom) // side, (width + right) // side
        x = x.view(batch, rows, side, columns, side, channels).transpose(2, 3).reshape(-1, side * side, channels)
        qkv = self.qkv(x).view(-1, side * side, 3, self.num_heads, channels // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        x = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=self._padding_mask(batch, size, (bottom, right), x.device),
            dropout_p=self.attn_drop.p if self.training else 0.0,
        )
        x = x.transpose(1, 2).reshape(batch, rows, columns, side, side, channels).transpose(2, 3)
        x = x.reshape(batch, rows * side, columns * side, channels)[:, :height, :width]
        return self.proj_drop(self.proj(x.reshape(batch, tokens, channels)))

    def _padding_mask(
        self, batch: int, size: tuple[int, int], pad: tuple[int, int], device: torch.device
    ) -> Tensor | None:
        """Which keys each window may attend: ``(B * windows, 1, 1, ws * ws)``, or None for all of them."""
        if self.padding == "zero" or not any(pad) or (self.padding == "mmseg" and not all(pad)):
            return None
        side = self.ws
        inside = torch.ones(size, dtype=torch.bool, device=device)
        inside = F.pad(inside, (0, pad[1], 0, pad[0]))
        rows, columns = inside.shape[0] // side, inside.shape[1] // side
        windows = inside.view(rows, side, columns, side).transpose(1, 2).reshape(rows * columns, 1, 1, side * side)
        return windows.repeat(batch, 1, 1, 1).expand(-1, 1, side * side, -1)


class SubsampledAttention(GlobalSubSampleAttn):
    """Every token attends a grid that a strided convolution has subsampled."""

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """``(B, H * W, C)`` on an ``H x W`` grid -> the same shape."""
        batch, tokens, channels = x.shape
        head_dim = channels // self.num_heads
        query = self.q(x).view(batch, tokens, self.num_heads, head_dim).transpose(1, 2)
        if self.sr is not None:
            x = self.sr(x.transpose(1, 2).reshape(batch, channels, *size)).flatten(2).transpose(1, 2)
            x = self.norm(x)
        key, value = self.kv(x).view(batch, -1, 2, self.num_heads, head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        x = F.scaled_dot_product_attention(query, key, value, dropout_p=self.attn_drop.p if self.training else 0.0)
        return self.proj_drop(self.proj(x.transpose(1, 2).reshape(batch, tokens, channels)))


@register_model
class TwinsAdapter(BackboneAdapter):
    """Twins PCPVT and SVT: strides 4, 8, 16, 32 at any size.

    The reference is timm on the image padded with zeros, right and bottom, to a multiple of 32.

    Args:
        stage_norm: add the LayerNorm after each requested stage that the dense SVT models have (``norm_list`` of the
            original segmentation code, ``norm_after_stage`` of mmseg). Its output also feeds the next stage.
        window_padding: what local attention does where 7 x 7 windows do not divide a stage's grid. ``'zero'`` attends
            zero pads (timm, the original detection code), ``'mask'`` never attends a pad, ``'mmseg'`` masks only when
            both the bottom and the right pad are non-zero (the original segmentation code, mmseg, mmpretrain).
        options: see :class:`BackboneAdapter`.
    """

    timm_modules = ("twins",)

    def __init__(
        self,
        model_name: str,
        *,
        stage_norm: bool = False,
        window_padding: str = "zero",
        **options: Unpack[AdapterOptions],
    ) -> None:
        if window_padding not in WINDOW_PADDINGS:
            raise ValueError(
                f"window_padding={window_padding!r} must be one of {', '.join(map(repr, WINDOW_PADDINGS))}."
            )
        self.window_padding = window_padding
        self.with_stage_norm = stage_norm
        super().__init__(model_name, **options)

    def adapt_trunk(self) -> None:
        last = len(self.trunk.blocks) - 1
        if self.out_norm and self.out_indices[-1] != last:
            raise ValueError(
                f"out_norm=True norms the last stage of {self.model_name}, which out_indices={self.out_indices} leaves "
                f"out; add {last} to out_indices or set out_norm=False."
            )
        super().adapt_trunk()
        for module in self.trunk.modules():
            if isinstance(module, LocallyGroupedAttn):
                graft(module, WindowAttention).padding = self.window_padding
            elif isinstance(module, GlobalSubSampleAttn):
                graft(module, SubsampledAttention)
        self.stage_norms: nn.ModuleList | None = None
        if self.with_stage_norm:
            channels = [level.channels for level in self.stage_levels[: len(self.trunk.blocks)]]
            # 1e-6 is the eps of every norm in the original dense code, and of timm's block norms.
            self.stage_norms = nn.ModuleList(nn.LayerNorm(count, eps=1e-6) for count in channels)

    def forward_trunk(self, image: Tensor) -> Sequence[Tensor]:
        maps = []
        x = image
        stages = zip(
            self.trunk.patch_embeds, self.trunk.pos_drops, self.trunk.blocks, self.trunk.pos_block, strict=True
        )
        for index, (embed, drop, blocks, position) in enumerate(stages):
            tokens, size = embed(x)
            tokens = drop(tokens)
            for depth, block in enumerate(blocks):
                tokens = self.run_block(block, tokens, size)
                if depth == 0:
                    tokens = position(tokens, size)
            if self.stage_norms is not None:
                tokens = self.stage_norms[index](tokens)
            if self.out_norm and index == len(self.trunk.blocks) - 1:
                tokens = self.trunk.norm(tokens)
            x = tokens.transpose(1, 2).unflatten(2, size)
            if index in self.out_indices:
                maps.append(x)
        return maps

    def part_names(self) -> list[list[str]]:
        parts = super().part_names()
        for index, norm in enumerate(self.stage_norms or ()):
            parts[index + 1] += [f"stage_norms.{index}.{name}" for name, _ in norm.named_parameters()]
        return parts
