"""A simple SwinV2-CR that is right at every size, for comparisons where timm's is not."""

import torch
import torch.nn.functional as F
from timm.models.swin_transformer_v2_cr import SwinTransformerV2CrBlock, window_partition, window_reverse
from torch import Tensor, nn


class PadFreeBlock(SwinTransformerV2CrBlock):
    """timm's block, except that the grid is padded before it is rolled, and that no pad is attended."""

    def _shifted_window_attn(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        down, right = self.shift_size
        bottom, side = (-size % window for size, window in zip((height, width), self.window_size, strict=True))
        x = torch.roll(F.pad(x, (0, 0, 0, side, 0, bottom)), (-down, -right), dims=(1, 2))
        grid = x.shape[1:3]
        windows = window_partition(x, self.window_size).flatten(1, 2)
        windows = self.attn(windows, mask=self._mask((height, width), (bottom, side), x))
        x = window_reverse(windows.unflatten(1, self.window_size), self.window_size, grid)
        return torch.roll(x, (down, right), dims=(1, 2))[:, :height, :width].contiguous()

    def _mask(self, size: tuple[int, int], pad: tuple[int, int], x: Tensor) -> Tensor:
        """Make the term that is added to the scores of each window, ``(windows, L, L)``."""
        # 0: stays where it is; 1 and 2: wrapped around down and right; -1: a pad, which no query sees.
        region = torch.zeros(size, device=x.device)
        region[: self.shift_size[0]] += 1
        region[:, : self.shift_size[1]] += 2
        region = F.pad(region, (0, pad[1], 0, pad[0]), value=-1.0)
        region = torch.roll(region, [-shift for shift in self.shift_size], dims=(0, 1))
        windows = window_partition(region[None, :, :, None], self.window_size).flatten(1)
        separated = (windows[:, :, None] != windows[:, None, :]) * -100.0
        return separated.masked_fill(windows[:, None, :] == -1, float("-inf")).to(x.dtype)


def attend_no_pads(model: nn.Module) -> None:
    """Turn every block of a timm SwinV2-CR into a :class:`PadFreeBlock`."""
    for module in model.modules():
        if isinstance(module, SwinTransformerV2CrBlock):
            module.__class__ = PadFreeBlock
