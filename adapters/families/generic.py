"""Every timm model that has no family of its own, through ``forward_intermediates``."""

import functools
from collections.abc import Mapping
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor, nn

from adapters.base import BackboneAdapter
from adapters.families.grafting import graft
from adapters.probing import parameters_behind, probe, remove_unused
from adapters.trunks import UnsupportedSizingError, build_trunk

#: What timm's classes call a free image size, most capable first.
SIZINGS: tuple[Mapping[str, Any], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})

#: Windows and grids that models partition their deepest maps into; images are padded to such a multiple of the stride.
WINDOW_SIDES = (1, 2, 4, 7, 8, 10, 12, 14, 16)


class GenericAdapter(BackboneAdapter):
    """A timm model as timm runs it, on images padded to what it can divide.

    timm's metadata is checked when the adapter is built: the model runs on tensors without data at several sizes, which
    finds the multiple to pad to, and its maps must have the channels and strides that ``levels`` says. The same run
    finds the parameters that have no part in the maps, and they are removed.

    Raises:
        ValueError: the model has no spatial features, or takes images of one size only.
    """

    def build_trunk(self, drop_path_rate: float) -> nn.Module:
        for sizing in SIZINGS:
            try:
                trunk = build_trunk(self.model_name, self.in_channels, drop_path_rate, self.trunk_arguments, sizing)
            except UnsupportedSizingError:
                continue
            if not hasattr(trunk, "forward_intermediates") or not getattr(trunk, "feature_info", None):
                raise ValueError(
                    f"{self.model_name} has no spatial features: timm's {type(trunk).__name__} gives no intermediate "
                    "maps. Choose a model that does, such as 'resnet50' or 'twins_svt_small'."
                )
            return trunk
        raise AssertionError("the last sizing asks timm for nothing")

    @property
    def pad_multiple(self) -> int:
        return self._pad_multiple

    def adapt_trunk(self) -> None:
        if hasattr(self.trunk, "prune_intermediate_layers"):
            super().adapt_trunk()
        self._pad_multiple = self._find_pad_multiple()
        sides = (self._pad_multiple, 2 * self._pad_multiple)
        used = parameters_behind(self._probe(sides))
        remove_unused(self.trunk, used, still_runs=lambda: self._mismatch(sides) is None)
        if self.with_cp:
            self._enable_checkpointing()

    def _probe(self, sides: tuple[int, int]) -> list[Tensor]:
        return probe(self, lambda adapter, image: adapter.forward_trunk(image), (1, self.in_channels, *sides))

    def _mismatch(self, sides: tuple[int, int]) -> str | None:
        """Why the maps at this size are not what ``levels`` says; None if they are."""
        try:
            maps = self._probe(sides)
        except (RuntimeError, AssertionError, ValueError, TypeError, AttributeError, IndexError) as error:
            return f"it fails there with {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        for feature_map, index in zip(maps, self.out_indices, strict=True):
            level = self.stage_levels[index]
            expected = (1, level.channels, *(-(-side // level.stride) for side in sides))
            if tuple(feature_map.shape) != expected:
                return f"its map {index} is {tuple(feature_map.shape)} where stride {level.stride} means {expected}"
        return None

    def _find_pad_multiple(self) -> int:
        """The smallest multiple at which the model gives true maps for an image that is not square.

        Raises:
            ValueError: there is none.
        """
        stride = max(level.stride for level in self.stage_levels)
        reason = None
        for side in WINDOW_SIDES:
            multiple = stride * side
            sizes = ((2 * multiple, 3 * multiple), (multiple, multiple))
            reasons = [mismatch for sides in sizes if (mismatch := self._mismatch(sides))]
            if not reasons:
                return multiple
            reason = reason or f"at {sizes[0][0]} x {sizes[0][1]} {reasons[0]}"
        native = self.trunk.pretrained_cfg.get("input_size", ("?", "?", "?"))[1:]
        raise ValueError(
            f"{self.model_name} cannot serve as a backbone for images of any size (its native size is "
            f"{native[0]} x {native[1]}): {reason}. Choose another model of timm's, such as one of the Twins, "
            "SwinV2-CR, ViT, EVA or ConViT families."
        )

    def _enable_checkpointing(self) -> None:
        """timm's own gradient checkpointing, or ours around each of the trunk's blocks where timm refuses."""
        try:
            self.trunk.set_grad_checkpointing(True)
        except (AssertionError, AttributeError, NotImplementedError):
            for block in _blocks(self.trunk):
                cls: Any = type(block)
                graft(block, _checkpointed(cls))


@functools.cache
def _checkpointed(cls: Any) -> type[nn.Module]:
    """A subclass that recomputes its forward pass during the backward pass."""

    def forward(self: nn.Module, *arguments: Any) -> Any:
        if not torch.is_grad_enabled():
            return cls.forward(self, *arguments)
        run = functools.partial(cls.forward, self)
        return torch.utils.checkpoint.checkpoint(run, *arguments, use_reentrant=False)

    return type(f"Checkpointed{cls.__name__}", (cls,), {"forward": forward})


def _blocks(trunk: nn.Module) -> list[nn.Module]:
    """The children of the trunk's containers: its stages or blocks."""
    return [
        block
        for container in trunk.children()
        if isinstance(container, nn.Sequential | nn.ModuleList)
        for block in container
        if any(True for _ in block.parameters())
    ]
