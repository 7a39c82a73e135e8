"""References for each family, built without the package: timm at the image's size, or the formula written out.

Slow and simple on purpose. Nothing here imports ``adapters``, and of ``lab`` only what does not import it either.
"""

import math
from collections.abc import Sequence
from typing import Any

import timm
import torch
import torch.nn.functional as F
from lab.compare import relative_error as relative_error
from lab.timm_models import copy_weights as copy_weights
from lab.timm_models import set_convit_grid
from torch import Tensor, nn


def pad(image: Tensor, multiple: int) -> Tensor:
    """Zeros to the right and below, to a multiple."""
    height, width = image.shape[-2:]
    return F.pad(image, (0, -width % multiple, 0, -height % multiple))


def crop(feature_map: Tensor, size: tuple[int, int], stride: int) -> Tensor:
    """The cells that the image reaches."""
    return feature_map[..., : math.ceil(size[0] / stride), : math.ceil(size[1] / stride)]


def timm_maps(model: nn.Module, image: Tensor, indices: Sequence[int], norm: bool) -> list[Tensor]:
    """timm's own intermediate maps."""
    return model.forward_intermediates(image, indices=list(indices), norm=norm, intermediates_only=True)


def convit_on_grid(model: nn.Module, grid: tuple[int, int]) -> nn.Module:
    """Let timm's ConViT take the images of an H x W grid, with the true (dx, dy) between its cells."""
    model.patch_embed.strict_img_size = False
    return set_convit_grid(model, grid)


def masked_swinv2_cr(model: nn.Module, image: Tensor, window: int) -> list[Tensor]:
    """SwinV2-CR over whole maps: every token against every other, and a rule that says who attends whom.

    ``image`` is padded to the patch. In each stage the grid is padded right and bottom to the window, then rolled; two
    tokens attend each other in one window, with timm's -100 where the roll brought them together, and no pad is a key.
    """
    model.patch_embed.strict_img_size = False
    x = model.patch_embed(image).permute(0, 2, 3, 1)
    maps = []
    for stage in model.stages:
        x = stage.downsample(x)
        for block in stage.blocks:
            x = x + block.norm1(_masked_attention(block, x, window))
            x = x + block.norm2(block.mlp(x))
            x = block.norm3(x)
        maps.append(x.permute(0, 3, 1, 2))
    return maps


def _masked_attention(block: nn.Module, x: Tensor, full: int) -> Tensor:
    batch, height, width, channels = x.shape
    attn = block.attn
    shifted = any(block.target_shift_size)
    windows = [min(full, side) for side in (height, width)]
    shifts = [full // 2 if shifted and side > full else 0 for side in (height, width)]
    padded = [math.ceil(side / window) * window for side, window in zip((height, width), windows, strict=True)]
    x = F.pad(x, (0, 0, 0, padded[1] - width, 0, padded[0] - height)).flatten(1, 2)
    # Where each token of the unrolled, padded map stands after the roll, and whether it wrapped around.
    rolled, wrapped, inside = [], [], []
    for side, pad_to, shift in zip((height, width), padded, shifts, strict=True):
        position = torch.arange(pad_to)
        after = (position - shift) % pad_to
        rolled.append(after)
        wrapped.append(after >= pad_to - shift)
        inside.append(position < side)
    row = [values.repeat_interleave(padded[1]) for values in (rolled[0], wrapped[0], inside[0])]
    column = [values.repeat(padded[0]) for values in (rolled[1], wrapped[1], inside[1])]
    same_window = (row[0] // windows[0])[:, None] == (row[0] // windows[0])[None]
    same_window &= (column[0] // windows[1])[:, None] == (column[0] // windows[1])[None]
    same_side = (row[1][:, None] == row[1][None]) & (column[1][:, None] == column[1][None])
    is_key = row[2] & column[2]
    # Further apart than a window is another window, where the bias does not matter: 2 * full + 1 offsets an axis do.
    reach = torch.arange(-full, full + 1).float()
    offsets = torch.cartesian_prod(reach, reach)
    table = attn.meta_mlp(offsets.sign() * torch.log1p(offsets.abs())).t()
    down, right = ((axis[0][:, None] - axis[0][None]).clamp(-full, full) + full for axis in (row, column))
    bias = table[:, down * (2 * full + 1) + right]

    query, key, value = (
        attn.qkv(x).view(batch, -1, 3, attn.num_heads, channels // attn.num_heads).permute(2, 0, 3, 1, 4)
    )
    scale = attn.logit_scale.clamp(max=math.log(100)).exp().view(1, -1, 1, 1)
    scores = F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).transpose(-2, -1) * scale + bias
    scores = scores - 100.0 * (~same_side)
    scores = scores.masked_fill(~(same_window & is_key[None, :]), float("-inf"))
    # A pad may find no key in its window; what it computes is cropped away.
    attention = scores.softmax(dim=-1).nan_to_num()
    x = attn.proj((attention @ value).transpose(1, 2).flatten(2))
    return x.view(batch, *padded, channels)[:, :height, :width]


def masked_twins_window_attention(attn: nn.Module, x: Tensor, size: tuple[int, int]) -> Tensor:
    """Twins' local attention window by window, each over its own tokens alone: no pads at all."""
    batch, _, channels = x.shape
    height, width = size
    grid = x.view(batch, height, width, channels)
    out = torch.empty_like(grid)
    for top in range(0, height, attn.ws):
        for left in range(0, width, attn.ws):
            patch = grid[:, top : top + attn.ws, left : left + attn.ws]
            tokens = patch.flatten(1, 2)
            qkv = attn.qkv(tokens).view(batch, tokens.shape[1], 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
            scores = qkv[0] @ qkv[1].transpose(-2, -1) * attn.scale
            mixed = (scores.softmax(dim=-1) @ qkv[2]).transpose(1, 2).flatten(2)
            out[:, top : top + attn.ws, left : left + attn.ws] = attn.proj(mixed).view(patch.shape)
    return out.view(x.shape)


def build_timm(model_name: str, **arguments: Any) -> nn.Module:
    """A timm model at random."""
    return timm.create_model(model_name, pretrained=False, **arguments)
