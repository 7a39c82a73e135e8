"""Pairing a checkpoint's tensors with an adapter's, strictly, resized where a size is all that differs."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from timm.layers import resample_abs_pos_embed
from timm.models import adapt_input_conv
from torch import Tensor

from adapters.weights import norm_eps
from adapters.weights.file import StateDict
from adapters.weights.report import ROWS

if TYPE_CHECKING:
    from adapters.base import BackboneAdapter
    from adapters.weights.interpret import Reading

#: Buffers that models compute from their size, in the words of timm's past and present versions and of the authors.
TABLES = frozenset(
    {
        "attention_bias_idxs",
        "attn_mask",
        "num_batches_tracked",
        "rel_indices",
        "relative_coordinates_log",
        "relative_coords_table",
        "relative_position_index",
    }
)

#: Parts that only checkpoints of dense models or of adapters hold. Where all of one is missing, it stays as built.
OPTIONAL = {
    "stage_norms.": "start at scale 1 and shift 0",
    "pyramid.": "start at random",
}

Problem = tuple[str, str, str]


class Match:
    """The pairing of one reading of a checkpoint with an adapter.

    Args:
        adapter: whose tensors are to be set.
        reading: of the checkpoint; its report is filled with what is left out, resized or noteworthy.

    Attributes:
        targets: the adapter's tensors by name.
        tensors: adapter's name -> tensor of the right shape.
        problems: kind, name and detail of everything for which the checkpoint must be refused.
    """

    def __init__(self, adapter: BackboneAdapter, reading: Reading) -> None:
        self.adapter = adapter
        self.reading = reading
        self.blueprint = reading.blueprint
        self.report = reading.report
        self.targets: StateDict = adapter.state_dict()
        self.targets.pop(norm_eps.KEY, None)
        self.tables = TABLES | self.blueprint.derived_buffers
        self.tensors: StateDict = {}
        self.problems: list[Problem] = []
        spare = [key for key, tensor in reading.state.items() if not self._take(key, tensor)]
        unknown = [key for key in spare if not self._explain_unused(key)]
        for key in unknown:
            name = key.removeprefix("trunk.")
            self.problems.append(("unexpected", name, self._nearest(name, self.targets)))
        self._explain_missing(set(reading.state), unknown)

    @property
    def is_plain(self) -> bool:
        """Every tensor was there, in the right shape."""
        return not self.problems and not self.report.notes

    def _take(self, key: str, tensor: Tensor) -> bool:
        """Set the adapter's tensor of this name; False if there is none."""
        target = self.targets.get(key)
        if target is None:
            return False
        fitted = self._fit(key.removeprefix("trunk."), tensor, target)
        if fitted.shape != target.shape:
            if _last(key) in self.tables:
                self.report.leave_out("tables of another size, rebuilt", key)
            else:
                shapes = f"{tuple(tensor.shape)} in the checkpoint, {tuple(target.shape)} in the model"
                self.problems.append(("shape", key, shapes + self._hint(key, tensor, target)))
        elif fitted.is_floating_point() != target.is_floating_point():
            self.problems.append(("type", key, f"{fitted.dtype} in the checkpoint, {target.dtype} in the model"))
        elif fitted.is_floating_point() and not torch.isfinite(fitted).all():
            self.problems.append(("values", key, "holds NaN or infinity"))
        else:
            if tensor.shape != fitted.shape:
                self.report.note("resized", key, f"{tuple(tensor.shape)} -> {tuple(fitted.shape)}")
            self.tensors[key] = fitted
        return True

    def _fit(self, name: str, tensor: Tensor, target: Tensor) -> Tensor:
        """Adapt a first convolution to other channels and position embeddings to another grid, as timm does."""
        grid_known = hasattr(getattr(self.blueprint.model, "patch_embed", None), "grid_size")
        if (
            name == "pos_embed"
            and grid_known
            and tensor.ndim == target.ndim == 3
            and tensor.shape[-1] == target.shape[-1]
        ):
            return self._resample_positions(tensor, target)
        if tensor.shape != target.shape and name in self.blueprint.first_convs and tensor.ndim == 4:
            try:
                return adapt_input_conv(self.adapter.in_channels, tensor)
            except NotImplementedError:
                return tensor
        return tensor

    def _resample_positions(self, tensor: Tensor, target: Tensor) -> Tensor:
        embed: Any = self.blueprint.model.patch_embed
        grid = tuple(embed.grid_size)
        prefix_tokens = target.shape[1] - grid[0] * grid[1]
        patches = tensor.shape[1] - prefix_tokens
        old_grid: tuple[int, ...] | None = None
        if self.reading.img_size is not None:
            old_grid = tuple(side // patch for side, patch in zip(self.reading.img_size, embed.patch_size, strict=True))
            if math.prod(old_grid) != patches:
                raise ValueError(
                    f"img_size={self.reading.img_size} means a grid of {old_grid[0]} x {old_grid[1]} patches, but the "
                    f"checkpoint's position embeddings are {patches}; give the size at which it was trained."
                )
        elif tensor.shape == target.shape or not _is_square(patches):
            return tensor
        return resample_abs_pos_embed(tensor, grid, old_grid, num_prefix_tokens=prefix_tokens)

    def _hint(self, key: str, tensor: Tensor, target: Tensor) -> str:
        if key == "trunk.pos_embed" and tensor.ndim == 3 and tensor.shape[-1] == target.shape[-1]:
            return (
                "; no square grid has so many positions: say at which size it was trained, "
                "init_cfg=dict(type='Pretrained', checkpoint=..., img_size=(H, W))"
            )
        if key.removeprefix("trunk.") in self.blueprint.first_convs and tensor.ndim == target.ndim:
            return "; channels other than 3 cannot be adapted, build the adapter with the checkpoint's in_channels"
        return ""

    def _explain_unused(self, key: str) -> bool:
        """Report why a tensor of the checkpoint has no place; False if there is no good reason."""
        name = key.removeprefix("trunk.")
        stage_norms = getattr(self.adapter, "stage_norms", None)
        if name.startswith(self.blueprint.classifier):
            self.report.leave_out("the classifier", name)
        elif name in self.adapter.pruned_keys or (key.startswith("stage_norms.") and stage_norms is not None):
            self.report.leave_out("not needed for these maps", name)
        elif key.startswith("stage_norms."):
            self.problems.append(("unexpected", key, "a norm after each stage: build the adapter with stage_norm=True"))
        elif key.startswith("pyramid.") and self.adapter.pyramid is None:
            self.report.leave_out("a pyramid that this adapter has not", key)
        elif _last(key) in self.tables:
            self.report.leave_out("tables of a size of their own, rebuilt", name)
        else:
            return False
        return True

    def _explain_missing(self, given: set[str], unknown: list[str]) -> None:
        parameters = {name for name, _ in self.adapter.named_parameters()}
        for prefix, fate in OPTIONAL.items():
            names = [key for key in self.targets if key.startswith(prefix)]
            if names and not any(key.startswith(prefix) for key in given):
                self.report.fresh.append(f"{len(names)} of {prefix}* {fate}, as it holds none")
                given.update(names)
        for key in self.targets:
            if key not in given and (key in parameters or _last(key) not in self.tables):
                name = key.removeprefix("trunk.")
                self.problems.append(("missing", name, self._nearest(name, unknown)))

    def _nearest(self, name: str, names: Iterable[str]) -> str:
        if len(self.problems) >= ROWS:
            return ""  # Not shown.
        near = difflib.get_close_matches(name, [other.removeprefix("trunk.") for other in names], n=2, cutoff=0.6)
        return f"nearest: {', '.join(near)}" if near else "nothing like it"


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _is_square(count: int) -> bool:
    return count >= 0 and math.isqrt(count) ** 2 == count
