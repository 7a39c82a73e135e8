"""Running a vision transformer's block inside windows, as ViTDet does (arXiv 2203.16527, section 3).

The block itself is timm's, so LayerScale, register tokens and rotary embeddings work as they were trained. Three
things are decided here. Pads are never attended. A patch keeps the rotary embedding of its place in the image, in
whatever window it is. Prefix tokens (class, registers) enter every window of their image as copies, and leave as the
mean of what the windows made of them; with a single window, the block is an ordinary global one.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapters.windows.exported import exported_windows
from adapters.windows.partition import Axis, WindowGroup, windows_of

RunBlock = Callable[..., Tensor]


class WindowedRunner:
    """A caller of blocks that runs them inside the windows of one grid; built once per forward pass.

    Args:
        batch: the number of images.
        grid: ``(H, W)`` in patches.
        window_size: side of a window in patches.
        prefix_tokens: tokens before the patches.
        like: a tensor on the device, of the dtype, of the tokens.
    """

    def __init__(self, batch: int, grid: tuple[int, int], window_size: int, prefix_tokens: int, like: Tensor) -> None:
        rows, columns = (Axis(side, min(side, window_size)) for side in grid)
        self.batch = batch
        self.prefix_tokens = prefix_tokens
        self.windows = windows_of(batch, rows, columns, like.device)
        self.masks = [self._mask(group, like.dtype) for group in self.windows.groups]

    def __call__(self, run_block: RunBlock, block: nn.Module, tokens: Tensor, rotary: Tensor | None) -> Tensor:
        """Run one block.

        Args:
            run_block: calls a block, with or without gradient checkpointing.
            block: timm's, which takes ``attn_mask`` (after ``rope``, if it is rotary).
            tokens: ``(B, P + H * W, C)``.
            rotary: None, or ``(H * W, D)``, or ``(heads, H * W, D)``.

        Returns:
            ``(B, P + H * W, C)``.
        """
        prefix, patches = tokens[:, : self.prefix_tokens], tokens[:, self.prefix_tokens :]
        split = self.windows.split(patches.reshape(-1, patches.shape[-1]))
        tables = None if rotary is None else self._split_rotary(rotary)
        outputs, prefixes = [], []
        for group, mask in zip(self.windows.groups, self.masks, strict=True):
            count = (group.stop - group.start) // self.batch
            copies = prefix.repeat_interleave(count, dim=0)
            x = torch.cat((copies, split[group.start : group.stop]), dim=1)
            arguments = (mask,) if tables is None else (tables[group.start : group.stop], mask)
            x = run_block(block, x, *arguments)
            outputs.append(x[:, self.prefix_tokens :])
            prefixes.append(x[:, : self.prefix_tokens].unflatten(0, (self.batch, count)))
        joined = self.windows.join(torch.cat(outputs)).view(patches.shape)
        return torch.cat((torch.cat(prefixes, dim=1).mean(dim=1), joined), dim=1)

    def _split_rotary(self, rotary: Tensor) -> Tensor:
        """Cut a rotary table into one per window, ``(windows, 1 or heads, L, D)``."""
        per_head = rotary if rotary.ndim == 3 else rotary.unsqueeze(0)
        heads, patches, depth = per_head.shape
        rows = per_head.transpose(0, 1).reshape(patches, heads * depth).repeat(self.batch, 1)
        return self.windows.split(rows).unflatten(-1, (heads, depth)).transpose(1, 2)

    def _mask(self, group: WindowGroup, dtype: torch.dtype) -> Tensor | None:
        """Return the scores that keep pads from being attended, ``(P + L, P + L)``, or None where there is no pad."""
        mask = group.mask(dtype, 0.0)
        if mask is None:
            return None
        total = self.prefix_tokens + mask.shape[1]
        padded = mask.new_zeros(total, total)
        padded[:, self.prefix_tokens :] = mask[0]
        return padded


class ExportedRunner:
    """The same with sizes that are symbols of a graph: all windows are whole, and the pads in them are masked."""

    def __init__(self, batch: int, grid: tuple[int, int], window_size: int, prefix_tokens: int, like: Tensor) -> None:
        rows, columns = ((side, window_size, 0) for side in grid)
        self.batch = batch
        self.prefix_tokens = prefix_tokens
        self.windows = exported_windows(batch, rows, columns, like.device)
        self.mask = F.pad(self.windows.mask(like.dtype, 0.0), (prefix_tokens, 0))

    def __call__(self, run_block: RunBlock, block: nn.Module, tokens: Tensor, rotary: Tensor | None) -> Tensor:
        """Run one block; arguments and result are those of :class:`WindowedRunner`, ``(B, P + H * W, C)``."""
        prefix, patches = tokens[:, : self.prefix_tokens], tokens[:, self.prefix_tokens :]
        count = self.windows.count
        copies = prefix.unsqueeze(1).expand(-1, count, -1, -1).flatten(0, 1)
        x = torch.cat((copies, self.windows.split(patches)), dim=1)
        arguments = (self.mask,) if rotary is None else (self._split_rotary(rotary), self.mask)
        x = run_block(block, x, *arguments)
        prefix = x[:, : self.prefix_tokens].unflatten(0, (self.batch, count)).mean(dim=1)
        return torch.cat((prefix, self.windows.join(x[:, self.prefix_tokens :])), dim=1)

    def _split_rotary(self, rotary: Tensor) -> Tensor:
        """Cut a rotary table into one per window, ``(windows, 1 or heads, L, D)``."""
        per_head = rotary if rotary.ndim == 3 else rotary.unsqueeze(0)
        heads, patches, depth = per_head.shape
        rows = per_head.transpose(0, 1).reshape(1, patches, heads * depth).expand(self.batch, -1, -1)
        return self.windows.split(rows).unflatten(-1, (heads, depth)).transpose(1, 2)


def make_runner(
    batch: int, grid: tuple[int, int], window_size: int, prefix_tokens: int, like: Tensor
) -> WindowedRunner | ExportedRunner | None:
    """Make the caller of blocks for one grid; None where the whole grid is one window.

    Args:
        batch, grid, window_size, prefix_tokens: those of :class:`WindowedRunner`.
        like: a tensor of the dtype and on the device of the tokens, of any shape.
    """
    if torch.compiler.is_exporting():
        return ExportedRunner(batch, grid, window_size, prefix_tokens, like)
    if any(side > window_size for side in grid):
        return WindowedRunner(batch, grid, window_size, prefix_tokens, like)
    return None
