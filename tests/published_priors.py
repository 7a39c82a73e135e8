"""The published spatial priors, written anew from their papers for sizes of whole 32s: references for ours.

ViT-Adapter (arXiv 2205.08534, sections 3.2 to 3.4) without injectors, as DINOv3 uses it (arXiv 2508.10104), and the
spatial tuning adapter of DEIMv2 (arXiv 2509.20787). Modules have the published names, so that weights go from one to
the other by name; what they compute is written with torch's functions alone.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch
from torch import Tensor, nn


def conv(in_channels: int, out_channels: int, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False),
        nn.SyncBatchNorm(out_channels),
    ]


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int, points: int, ratio: float) -> None:
        super().__init__()
        self.heads, self.points = heads, points
        self.sampling_offsets = nn.Linear(dim, heads * points * 2)
        self.attention_weights = nn.Linear(dim, heads * points)
        self.value_proj = nn.Linear(dim, int(dim * ratio))
        self.output_proj = nn.Linear(int(dim * ratio), dim)

    def forward(self, query: Tensor, reference: Tensor, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        batch, count, _ = query.shape
        value = self.value_proj(tokens).view(batch, tokens.shape[1], self.heads, -1)
        offsets = self.sampling_offsets(query).view(batch, count, self.heads, 1, self.points, 2)
        weights = self.attention_weights(query).view(batch, count, self.heads, 1, self.points).softmax(-1)
        locations = reference[None, :, None, None, None] + offsets / torch.tensor([grid[1], grid[0]])
        return self.output_proj(multi_scale_deformable_attn_pytorch(value, torch.tensor([grid]), locations, weights))


class DepthwiseConv(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)


class FeedForward(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.dwconv, self.fc2 = nn.Linear(dim, hidden), DepthwiseConv(hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor, grids: Sequence[tuple[int, int]]) -> Tensor:
        x, done, outputs = self.fc1(x), 0, []
        for height, width in grids:
            part = x[:, done : done + height * width].mT.reshape(len(x), -1, height, width)
            outputs.append(self.dwconv.dwconv(part).flatten(2).mT)
            done += height * width
        return self.fc2(F.gelu(torch.cat(outputs, 1)))


class Extractor(nn.Module):
    def __init__(self, dim: int, heads: int, points: int, ratio: float) -> None:
        super().__init__()
        self.query_norm, self.feat_norm = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads, points, ratio)
        self.ffn = FeedForward(dim, dim // 4)
        self.ffn_norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, query: Tensor, reference: Tensor, tokens: Tensor, grid: tuple, grids: Sequence) -> Tensor:
        query = query + self.attn(self.query_norm(query), reference, self.feat_norm(tokens), grid)
        return query + self.ffn(self.ffn_norm(query), grids)


class Interaction(nn.Module):
    def __init__(self, extra: int, *arguments: float) -> None:
        super().__init__()
        self.extractor = Extractor(*arguments)
        self.extra_extractors = nn.Sequential(*(Extractor(*arguments) for _ in range(extra))) if extra else None


class PriorModule(nn.Module):
    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        stem = [*conv(3, width, 2), nn.ReLU(), *conv(width, width, 1), nn.ReLU(), *conv(width, width, 1), nn.ReLU()]
        self.stem = nn.Sequential(*stem, nn.MaxPool2d(3, 2, 1))
        self.conv2 = nn.Sequential(*conv(width, 2 * width, 2), nn.ReLU())
        self.conv3 = nn.Sequential(*conv(2 * width, 4 * width, 2), nn.ReLU())
        self.conv4 = nn.Sequential(*conv(4 * width, 4 * width, 2), nn.ReLU())
        self.fc1, self.fc2 = nn.Conv2d(width, dim, 1), nn.Conv2d(2 * width, dim, 1)
        self.fc3, self.fc4 = nn.Conv2d(4 * width, dim, 1), nn.Conv2d(4 * width, dim, 1)


class Dinov3Adapter(nn.Module):
    """DINOv3's adapter on given maps of stride 16, ``(B, C, H / 16, W / 16)``, one for each of four blocks."""

    def __init__(self, dim: int, width: int = 64, heads: int = 16, points: int = 4, ratio: float = 0.5) -> None:
        super().__init__()
        self.level_embed = nn.Parameter(torch.zeros(3, dim))
        self.spm = PriorModule(width, dim)
        arguments = (dim, heads, points, ratio)
        self.interactions = nn.Sequential(*(Interaction(2 if index == 3 else 0, *arguments) for index in range(4)))
        self.up = nn.ConvTranspose2d(dim, dim, 2, 2)
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.SyncBatchNorm(dim) for _ in range(4))

    def forward(self, maps: Sequence[Tensor], image: Tensor) -> list[Tensor]:
        x1 = self.spm.stem(image)
        x2 = self.spm.conv2(x1)
        x3 = self.spm.conv3(x2)
        x4 = self.spm.conv4(x3)
        c1, c2, c3, c4 = self.spm.fc1(x1), self.spm.fc2(x2), self.spm.fc3(x3), self.spm.fc4(x4)
        grids = [tuple(c.shape[-2:]) for c in (c2, c3, c4)]
        c = torch.cat([part.flatten(2).mT + self.level_embed[i] for i, part in enumerate((c2, c3, c4))], 1)
        reference = torch.cat([
            torch.stack([(torch.arange(h * w) % w + 0.5) / w, (torch.arange(h * w) // w + 0.5) / h], -1)
            for h, w in grids
        ])  # fmt: skip
        for interaction, feature_map in zip(self.interactions, maps, strict=True):
            for extractor in (interaction.extractor, *(interaction.extra_extractors or ())):
                c = extractor(c, reference, feature_map.flatten(2).mT, tuple(feature_map.shape[-2:]), grids)
        parts = c.split([h * w for h, w in grids], dim=1)
        c2, c3, c4 = (part.mT.reshape(len(c), -1, *grid) for part, grid in zip(parts, grids, strict=True))
        outputs = [self.up(c2) + c1, c2, c3, c4]
        for index, feature_map in enumerate(maps):
            size = outputs[index].shape[-2:]
            outputs[index] = outputs[index] + F.interpolate(feature_map, size, mode="bilinear", align_corners=False)
        return [norm(x) for norm, x in zip((self.norm1, self.norm2, self.norm3, self.norm4), outputs, strict=True)]


class LightStem(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(*conv(3, width, 2), nn.GELU(), nn.MaxPool2d(3, 2, 1))
        self.conv2 = nn.Sequential(*conv(width, 2 * width, 2))
        self.conv3 = nn.Sequential(nn.GELU(), *conv(2 * width, 4 * width, 2))
        self.conv4 = nn.Sequential(nn.GELU(), *conv(4 * width, 4 * width, 2))


class SpatialTuningAdapter(nn.Module):
    """DEIMv2's adapter on given maps of stride 16, ``(B, C, H / 16, W / 16)``, three or one."""

    def __init__(self, dim: int, width: int = 16, hidden: int | None = None) -> None:
        super().__init__()
        hidden = hidden or dim
        self.sta = LightStem(width)
        self.convs = nn.ModuleList(nn.Conv2d(dim + more * width, hidden, 1, bias=False) for more in (2, 4, 4))
        self.norms = nn.ModuleList(nn.SyncBatchNorm(hidden) for _ in range(3))

    def forward(self, maps: Sequence[Tensor], image: Tensor) -> list[Tensor]:
        maps = list(maps) * (3 if len(maps) == 1 else 1)
        c2 = self.sta.conv2(self.sta.stem(image))
        c3 = self.sta.conv3(c2)
        outputs = []
        for index, detail in enumerate((c2, c3, self.sta.conv4(c3))):
            tap = F.interpolate(maps[index], detail.shape[-2:], mode="bilinear", align_corners=False)
            outputs.append(self.norms[index](self.convs[index](torch.cat([tap, detail], dim=1))))
        return outputs
