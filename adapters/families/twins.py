"""Twins PCPVT and SVT (arXiv 2104.13840) for dense prediction."""

import torch
from timm.models.twins import GlobalSubSampleAttn, LocallyGroupedAttn, PosConv
from torch import Tensor, nn
from typing_extensions import Unpack

from adapters.base import BackboneAdapter, TrunkOutput
from adapters.kernels.long_attention import attend
from adapters.kernels.packed_attention import attend_packed
from adapters.options import AdapterOptions
from adapters.registry import register_model
from adapters.trunk.surgery import graft
from adapters.weights.formats import Format
from adapters.weights.report import Row
from adapters.weights.target import OwnPart
from adapters.windows.attention import attend_in_windows
from adapters.windows.partition import Axis

WINDOW_PADDINGS = ("zero", "mask", "mmseg")


class WindowAttention(LocallyGroupedAttn):
    """Attention inside ``ws x ws`` windows."""

    padding: str

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Attend within windows of an ``H x W`` grid, ``(B, H * W, C)`` -> the same shape."""
        batch, tokens, channels = x.shape
        rows, columns = (Axis(side, self.ws) for side in size)
        if torch.compiler.is_exporting():
            return self._forward_exported(x, rows, columns)
        # Whether there are pads is asked where it matters alone: the answer is a guard of a compiled graph.
        masked = self.padding == "mask" or (
            self.padding == "mmseg" and rows.size != rows.padded and columns.size != columns.padded
        )
        wrapped_score = 0.0 if masked else None
        joined = attend_in_windows(
            x.reshape(-1, channels), batch, rows, columns, self._project_qkv, self._attend_qkv, wrapped_score
        )
        return self.proj_drop(self.proj(joined)).view(batch, tokens, channels)

    def _forward_exported(self, x: Tensor, rows: Axis, columns: Axis) -> Tensor:
        """Attend as :meth:`forward`, with the question for pads as part of the graph."""

        def attend_qkv(qkv: Tensor, mask: Tensor | None) -> Tensor:
            if mask is not None and self.padding == "mmseg":
                pads = [torch.full((1,), axis.size, device=x.device) % axis.window != 0 for axis in (rows, columns)]
                mask = torch.where(pads[0] & pads[1], mask, torch.zeros_like(mask))
            return self._attend_qkv(qkv, mask)

        wrapped_score = None if self.padding == "zero" else 0.0
        joined = attend_in_windows(
            x.reshape(-1, x.shape[-1]), x.shape[0], rows, columns, self._project_qkv, attend_qkv, wrapped_score
        )
        return self.proj_drop(self.proj(joined)).view(x.shape)

    def _project_qkv(self, tokens: Tensor) -> Tensor:
        """Project ``(windows, L, C)`` to ``(windows, L, 3, heads, C / heads)``."""
        return self.qkv(tokens).unflatten(-1, (3, self.num_heads, tokens.shape[-1] // self.num_heads))

    def _attend_qkv(self, qkv: Tensor, mask: Tensor | None) -> Tensor:
        """Attend within each window, ``(windows, L, 3, heads, C / heads)`` -> ``(windows, L, C)``."""
        return attend_packed(qkv, mask, self.attn_drop.p if self.training else 0.0)


class SubsampledAttention(GlobalSubSampleAttn):
    """Attention of every token to a grid that a strided convolution has subsampled."""

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Attend the subsampled ``H x W`` grid, ``(B, H * W, C)`` -> the same shape."""
        batch, tokens, channels = x.shape
        head_dim = channels // self.num_heads
        query = self.q(x).view(batch, tokens, self.num_heads, head_dim).transpose(1, 2)
        if self.sr is not None:
            x = self.sr(as_map(x, size)).flatten(2).transpose(1, 2)
            x = self.norm(x)
        # One copy of the few keys and values: the fused kernel passes over them for every few hundred queries.
        kv = self.kv(x).view(batch, -1, 2, self.num_heads, head_dim).permute(2, 0, 3, 1, 4).contiguous()
        key, value = kv.unbind(0)
        x = attend(query, key, value, dropout_p=self.attn_drop.p if self.training else 0.0)
        return self.proj_drop(self.proj(x.transpose(1, 2).reshape(batch, tokens, channels)))


class PositionConv(PosConv):
    """The conditional position encoding (arXiv 2102.10882): a depthwise convolution, added to the tokens."""

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Add the encoding to the tokens of an ``H x W`` grid, ``(B, H * W, C)`` -> the same shape.

        The sum takes the layout of its first term: adding to the tokens keeps them contiguous for the blocks that
        follow, where timm's sum of maps leaves every later norm and projection a copy to make.
        """
        return x + self.proj(as_map(x, size)).flatten(2).transpose(1, 2)


def as_map(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """View ``(B, H * W, C)`` as ``(B, C, H, W)``, the same memory.

    By way of ``(B, H, W, C)``, since the strides of that are what convolutions recognise as channels-last also for a
    single image; others they copy, and so does whatever reads their output as tokens.
    """
    return tokens.unflatten(1, size).permute(0, 3, 1, 2)


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
        if stage_norm and options.get("keep_head"):
            raise ValueError(
                "stage_norm=True and keep_head=True exclude each other: timm's classification model has no norms after "
                "its stages."
            )
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
            elif isinstance(module, PosConv):
                assert module.stride == 1
                graft(module, PositionConv)
        self.stage_norms: nn.ModuleList | None = None
        if self.with_stage_norm:
            channels = [level.channels for level in self.stage_levels[: len(self.trunk.blocks)]]
            # 1e-6 is the eps of every norm in the original dense code, and of timm's block norms.
            self.stage_norms = nn.ModuleList(nn.LayerNorm(count, eps=1e-6) for count in channels)

    def forward_trunk(self, image: Tensor) -> TrunkOutput:
        maps = []
        final = None
        x = image.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)  # so that the tokens need no copy
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
            if (self.out_norm or self.keep_head) and index == len(self.trunk.blocks) - 1:
                final = self.trunk.norm(tokens)
                tokens = final if self.out_norm else tokens
            x = as_map(tokens, size)
            if index in self.out_indices:
                maps.append(x)
        return maps, final

    def part_names(self) -> list[list[str]]:
        parts = super().part_names()
        for index, norm in enumerate(self.stage_norms or ()):
            parts[index + 1] += [f"stage_norms.{index}.{name}" for name, _ in norm.named_parameters()]
        return parts

    @property
    def own_parts(self) -> tuple[OwnPart, ...]:
        norms = OwnPart(
            "stage_norms.*",
            "start at scale 1 and shift 0",
            unused="" if self.stage_norms is None else "not needed for these maps",
            remedy="a norm after each stage: build the adapter with stage_norm=True",
        )
        return (*super().own_parts, norms)

    def after_load(self, checkpoint_format: Format) -> list[Row]:
        theirs = checkpoint_format.window_padding
        has_windows = any(isinstance(module, LocallyGroupedAttn) for module in self.trunk.modules())
        if theirs in ("zero", self.window_padding) or not has_windows:
            return []
        computes = f"{self.window_padding!r} here; {theirs!r} computes what {checkpoint_format.title} model does"
        return [("look", "window_padding", computes)]
