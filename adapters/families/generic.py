"""Every timm model that has no family of its own, through ``forward_intermediates``."""

import copy
import functools
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from timm.models.nest import NestLevel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException

from adapters.any_size import blueprints
from adapters.any_size.nest import RectangularLevel
from adapters.any_size.padding_search import EXPECTED_ERRORS, Geometry, NoGeometryError, find_geometry
from adapters.any_size.sized_trunk import SizedTrunk, caches_of
from adapters.base import BackboneAdapter
from adapters.kernels.long_attention import redirect_attention
from adapters.levels import Level
from adapters.trunk.build import UnsupportedSizingError, build_trunk
from adapters.trunk.crossvit import finish_in_first_branch
from adapters.trunk.probing import Removal, everything_trainable, parameters_behind, probe, remove_unused
from adapters.trunk.recompute import checkpoint_blocks
from adapters.trunk.surgery import graft

#: What timm's classes call a free image size, most capable first.
SIZINGS: tuple[Mapping[str, Any], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})

Size = tuple[int, int]

#: What building has found out, for the next adapter of the same model: how it is padded and what it has no use for, and
#: what an image size changes in it. A detector's config is built several times before training starts.
_KNOWN_PLANS: dict[Hashable, tuple[Geometry, Removal]] = {}
_KNOWN_SIZED: dict[Hashable, SizedTrunk | None] = {}
_MOST_KNOWN = 16


def _forget_oldest(known: dict[Hashable, Any]) -> None:
    while len(known) > _MOST_KNOWN:
        del known[next(iter(known))]


class GenericAdapter(BackboneAdapter):
    """A timm model as timm runs it, on images padded to what it can divide.

    timm's metadata is checked when the adapter is built: the model runs on tensors without data at several sizes, which
    finds how to pad (:mod:`adapters.any_size.padding_search`), and its maps must have the channels and strides that
    ``levels`` says. The same run finds the parameters that have no part in the maps, and they are removed.

    Models that timm builds for one image size, and that have no switch to free them from it, run as timm would build
    them for the size of each image, with the same parameters (:mod:`adapters.any_size.sized_trunk`).

    Raises:
        ValueError: the model has no spatial features, or takes images of one size only, with the reason.
    """

    #: For models without a free size; None for the others.
    sized_trunk: SizedTrunk | None = None
    geometry: Geometry | None = None
    #: Modules, by name, and their dicts of what timm keeps from pass to pass in eval mode.
    caches: Sequence[tuple[str, str]] = ()

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
            if "dynamic_img_size" not in sizing:
                key = self._build_key()
                if key not in _KNOWN_SIZED:
                    _KNOWN_SIZED[key] = self._find_sized_trunk(trunk)
                    _forget_oldest(_KNOWN_SIZED)
                self.sized_trunk = copy.deepcopy(_KNOWN_SIZED[key])
            return trunk
        raise AssertionError("the last sizing asks timm for nothing")

    def read_stage_levels(self) -> tuple[Level, ...]:
        """Of a model with several branches (CrossViT), the blocks of the first, whose patches are the finest."""
        return super().read_stage_levels()[: getattr(self.trunk, "num_feature_blocks", None)]

    @property
    def pad_multiple(self) -> int:
        assert self.geometry is not None
        return self.geometry.multiple

    @property
    def pad_margins(self) -> tuple[int, int]:
        assert self.geometry is not None
        return self.geometry.before, self.geometry.after

    def _cut_dead_ends(self) -> None:
        """Leave out what runs and does not reach any map."""
        finish_in_first_branch(self.trunk)

    def adapt_trunk(self) -> None:
        if hasattr(self.trunk, "prune_intermediate_layers"):
            super().adapt_trunk()
        self._cut_dead_ends()
        for module in self.trunk.modules():
            if type(module) is NestLevel:
                graft(module, RectangularLevel)
        key = (self._build_key(), self.out_indices, self.out_norm)
        known = _KNOWN_PLANS.get(key)
        if known is None:
            self.geometry = self._find_geometry([self.stage_levels[index] for index in self.out_indices])
            _KNOWN_PLANS[key] = self.geometry, self._remove_unused()
            _forget_oldest(_KNOWN_PLANS)
        else:
            self.geometry = known[0]
            known[1].apply(self.trunk)
        self.caches = [(name, key) for name, part in self.trunk.named_modules() if name for key in caches_of(part)]
        if self.with_cp:
            checkpoint_blocks(self.trunk)

    def _build_key(self) -> Hashable:
        """What decides about the structure of the trunk."""
        return self.model_name, self.in_channels, repr(sorted(self.trunk_arguments.items()))

    def _remove_unused(self) -> Removal:
        margin = sum(self.pad_margins)
        size = (self.pad_multiple + margin, 2 * self.pad_multiple + margin)
        with everything_trainable(self.trunk):
            maps = self._run(size)
            used = parameters_behind(maps)
        shapes = [feature_map.shape for feature_map in maps]
        return remove_unused(self.trunk, used, still_runs=lambda: self._shapes(size) == shapes)

    def forward_trunk(self, image: Tensor) -> Sequence[Tensor]:
        maps = self._all_cells(image)
        skips = self.geometry.skips if self.geometry is not None else ()
        return [m[..., skip:, skip:] for m, skip in zip(maps, skips, strict=True)] if any(skips) else maps

    def _all_cells(self, image: Tensor) -> Sequence[Tensor]:
        """The maps of the trunk, those cells included that lie in the margin."""
        trunk = self.trunk
        if self.sized_trunk is not None:
            trunk = self.sized_trunk.at(trunk, (image.shape[-2], image.shape[-1]))
        elif self.caches:
            self._empty_caches()
        with redirect_attention(trunk, image):
            return trunk.forward_intermediates(
                image, indices=list(self.out_indices), norm=self.out_norm, stop_early=True, intermediates_only=True
            )

    @torch.compiler.disable
    def _empty_caches(self) -> None:
        """What TinyViT keeps is stale after a change of its parameters, and useless to a pass with gradients."""
        for name, attribute in self.caches:
            setattr(self.trunk.get_submodule(name), attribute, {})

    def _find_sized_trunk(self, trunk: nn.Module) -> SizedTrunk | None:
        """None where an image size changes nothing in the model that timm builds."""
        blueprint = functools.partial(blueprints.draw, self.model_name, self.in_channels, self.trunk_arguments)
        native = self._native_size(trunk)
        try:
            sized = SizedTrunk(blueprint, native)
            return sized if sized.differs_at((native[0] + 64, native[1] + 128)) else None
        except UnsupportedSizingError:
            return None
        except ValueError as error:
            raise ValueError(self._refusal(str(error), native)) from error

    def _run(self, size: Size) -> list[Tensor]:
        """The maps at a size, without data where the model allows it."""
        shape = (1, self.in_channels, *size)
        try:
            return probe(self, lambda adapter, image: adapter._all_cells(image), shape)
        except DataDependentOutputException:
            return probe(self, lambda adapter, image: adapter._all_cells(image), shape, real=True)

    def _shapes(self, size: Size) -> list[torch.Size]:
        """Of the maps at a size; none where the trunk fails."""
        try:
            return [feature_map.shape for feature_map in self._run(size)]
        except EXPECTED_ERRORS:
            return []

    def _find_geometry(self, levels: Sequence[Level]) -> Geometry:
        deepest = max(level.stride for level in self.stage_levels)
        native = self._native_size(self.trunk)
        try:
            return find_geometry(self._run, levels, deepest, native)
        except NoGeometryError as error:
            raise ValueError(self._refusal(str(error), native)) from error

    @staticmethod
    def _native_size(trunk: Any) -> Size:
        return trunk.pretrained_cfg["input_size"][1], trunk.pretrained_cfg["input_size"][2]

    def _refusal(self, reason: str, native: Size) -> str:
        return (
            f"{self.model_name} cannot serve as a backbone for images of any size (its native size is "
            f"{native[0]} x {native[1]}): {reason}. Choose another model of timm's, such as one of the Twins, "
            "SwinV2-CR, ViT, EVA or ConViT families; adapters.list_models() lists those that work."
        )
