"""ConViT (arXiv 2103.10697) on grids of any height and width, without an N x N matrix of positions."""

import torch
from timm.layers import resample_abs_pos_embed
from timm.models.convit import GPSA, MHSA, Block
from torch import Tensor, nn

from adapters.base import BackboneAdapter, TrunkOutput
from adapters.kernels.cpu import is_untouched
from adapters.kernels.long_attention import attend
from adapters.registry import register_model
from adapters.trunk.surgery import forget_size, graft

#: Length of the vectors that are sent through a changed positional layer: beside their products its bias is small, so
#: that subtracting it rounds little.
_PROBE = 256.0


class GatedPositionalAttention(GPSA):
    """Gated positional self-attention (eq. 7 of the paper), with its positional half factored by axis.

    The positional score ``w0 dx + w1 dy + w2 (dx^2 + dy^2) + b`` is a sum of a term in ``dx`` and one in ``dy``, so its
    softmax over all keys is the product of a softmax along x and one along y. Both attention maps sum to one, hence so
    does their gated mixture, and timm's final renormalisation does nothing.
    """

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Attend on a grid of ``(H, W)`` tokens, ``(B, H * W, C)`` -> the same shape."""
        batch, tokens, channels = x.shape
        head_dim = channels // self.num_heads
        # The fused kernel passes over the keys for every few hundred queries: one copy pays.
        query, key = self.qk(x).view(batch, tokens, 2, self.num_heads, head_dim).permute(2, 0, 3, 1, 4).contiguous()
        value = self.v(x).view(batch, tokens, self.num_heads, head_dim).transpose(1, 2).contiguous()
        content = attend(query, key, value)
        content = content.transpose(1, 2).unflatten(1, grid)
        gate = torch.sigmoid(self.gating_param)[:, None]
        x = torch.lerp(content, self.attend_positions(value, grid).to(content.dtype), gate.to(content.dtype))
        return self.proj_drop(self.proj(x.reshape(batch, tokens, channels)))

    def attend_positions(self, value: Tensor, grid: tuple[int, int]) -> Tensor:
        """Average values by their positions alone, ``(B, heads, H * W, d)`` -> ``(B, H, W, heads, d)``."""
        height, width = grid
        batch, heads, _, head_dim = value.shape
        along_x = self.axis_weights(width, 0).to(value.dtype)
        along_y = self.axis_weights(height, 1).to(value.dtype)
        x = torch.matmul(along_y, value.reshape(batch, heads, height, width * head_dim))
        x = x.view(batch, heads, height, width, head_dim).transpose(2, 3).reshape(batch, heads, width, -1)
        x = torch.matmul(along_x, x).view(batch, heads, width, height, head_dim)
        return x.permute(0, 3, 2, 1, 4)

    def axis_weights(self, size: int, axis: int) -> Tensor:
        """Compute attention along one axis, ``(heads, size, size)``, each row a distribution over the keys."""
        weight, bias = self.position_weights()
        index = torch.arange(size, device=weight.device, dtype=weight.dtype)
        offset = index[None, :] - index[:, None]
        linear, square = weight[:, axis, None, None], weight[:, 2, None, None]
        # The bias shifts every score alike, which softmax ignores; it stays in, so that it has a (zero) gradient.
        scores = linear * offset + square * offset.square() + bias[:, None, None]
        return scores.softmax(dim=-1)

    def position_weights(self) -> tuple[Tensor, Tensor]:
        """Return ``w``, ``(heads, 3)``, and ``b``, ``(heads,)``, of the positional score.

        Where someone has changed the layer (LoRA, quantisation, a hook), they are what calling it reveals.
        """
        if is_untouched(self.pos_proj, nn.Linear):
            return self.pos_proj.weight, self.pos_proj.bias
        probes = torch.eye(4, 3, device=self.gating_param.device, dtype=self.gating_param.dtype) * _PROBE
        *sums, bias = self.pos_proj(probes).unbind(0)
        return torch.stack([(total - bias) / _PROBE for total in sums], dim=1), bias


class GridBlock(Block):
    """A block with positional attention, which is called with the grid of its tokens.

    The grid is an argument, not an attribute, so that passes of several sizes, threads and recomputation in the
    backward pass cannot see one another's.
    """

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Run the block on a grid of ``(H, W)`` tokens, ``(B, H * W, C)`` -> the same shape."""
        x = x + self.drop_path(self.attn(self.norm1(x), grid))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class SelfAttention(MHSA):
    """Self-attention without positions, through torch's fused kernels."""

    def forward(self, x: Tensor) -> Tensor:
        """Let all tokens attend one another, ``(B, N, C)`` -> the same shape."""
        batch, tokens, channels = x.shape
        qkv = self.qkv(x).view(batch, tokens, 3, self.num_heads, channels // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).contiguous()
        dropout = self.attn_drop.p if self.training else 0.0
        x = attend(query, key, value, dropout_p=dropout)
        return self.proj_drop(self.proj(x.transpose(1, 2).reshape(batch, tokens, channels)))


@register_model
class ConViTAdapter(BackboneAdapter):
    """ConViT: blocks at stride 16, on the true grid of each image.

    timm assumes a square grid. Here positions are the (dx, dy) of an H x W one, and the absolute position embeddings
    are resampled to it as timm resamples those of a ViT.

    Raises:
        ValueError: ``trunk`` asks for attention dropout, which needs the matrix that this form does without.
    """

    timm_modules = ("convit",)

    def adapt_trunk(self) -> None:
        if rate := self.trunk_arguments.get("attn_drop_rate"):
            raise ValueError(
                f"trunk={self.trunk_arguments!r}: attn_drop_rate={rate} drops entries of an attention matrix that "
                "ConViTAdapter never forms; leave it out and use drop_path_rate or proj_drop_rate instead."
            )
        self._native_grid = tuple(self.trunk.patch_embed.grid_size)
        super().adapt_trunk()
        forget_size(self.trunk.patch_embed)
        for block in self.trunk.blocks:
            if block.use_gpsa:
                graft(block, GridBlock)
                graft(block.attn, GatedPositionalAttention)
            else:
                graft(block.attn, SelfAttention)

    def forward_trunk(self, image: Tensor) -> TrunkOutput:
        trunk = self.trunk
        stride = self.pad_multiple
        grid = (image.shape[-2] // stride, image.shape[-1] // stride)
        tokens = trunk.patch_embed(image)
        if trunk.use_pos_embed:
            tokens = tokens + resample_abs_pos_embed(trunk.pos_embed, grid, self._native_grid, num_prefix_tokens=0)
        tokens = trunk.pos_drop(tokens)
        maps = []
        for index, block in enumerate(trunk.blocks):
            if index == trunk.local_up_to_layer:
                tokens = torch.cat((trunk.cls_token.expand(tokens.shape[0], -1, -1), tokens), dim=1)
            tokens = self.run_block(block, tokens, *([grid] if block.use_gpsa else []))
            if index in self.out_indices:
                patches = tokens[:, 1:] if index >= trunk.local_up_to_layer else tokens
                if self.out_norm:
                    patches = trunk.norm(patches)
                maps.append(patches.transpose(1, 2).unflatten(2, grid))
        return maps, trunk.norm(tokens) if self.keep_head else None
