"""Every timm model that has no family of its own, through ``forward_intermediates``."""

import copy
import functools
import threading
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from timm.models.nest import NestLevel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException

from adapters.any_size.padding_search import EXPECTED_ERRORS, Geometry, NoGeometryError, find_geometry
from adapters.any_size.sized_trunk import SizedTrunk
from adapters.any_size.timm_exceptions import RectangularLevel, build_at_size
from adapters.base import BackboneAdapter, TrunkOutput
from adapters.kernels.long_attention import redirect_attention
from adapters.levels import Level
from adapters.trunk.build import UnsupportedSizingError, build_trunk
from adapters.trunk.hosted_models import hosted_model
from adapters.trunk.probing import everything_trainable, parameters_behind, probe
from adapters.trunk.pruning import Removal, finish_in_first_branch, remove_unused
from adapters.trunk.recompute import RecomputingTrunk, recompute_blocks
from adapters.trunk.surgery import graft, switch_off_bias_caches

#: The arguments with which timm's classes free the image size, most capable first.
SIZINGS: tuple[Mapping[str, Any], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})

Size = tuple[int, int]

#: Padding and removals by model, and what an image size changes in it, since a config builds its backbone up to four
#: times before training starts.
_PLAN_CACHE: dict[Hashable, tuple[Geometry, Removal]] = {}
_SIZED_TRUNK_CACHE: dict[Hashable, SizedTrunk | None] = {}
_CACHED_MODELS = 16
_CACHE_LOCK = threading.Lock()


def _remember(cache: dict[Hashable, Any], key: Hashable, value: Any) -> None:
    with _CACHE_LOCK:
        cache[key] = value
        while len(cache) > _CACHED_MODELS:
            del cache[next(iter(cache))]


def _head_norm(trunk: nn.Module) -> nn.Module | None:
    """Return the final norm of a model that has it behind the pooling, as BEiT; None for the others."""
    norm, head_norm = getattr(trunk, "norm", None), getattr(trunk, "fc_norm", None)
    return head_norm if isinstance(norm, nn.Identity) and not isinstance(head_norm, nn.Identity) else None


class GenericAdapter(RecomputingTrunk, BackboneAdapter):
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
                known = dict(_SIZED_TRUNK_CACHE)  # another thread may forget what this one is about to read
                if key not in known:
                    known[key] = self._find_sized_trunk(trunk)
                    _remember(_SIZED_TRUNK_CACHE, key, known[key])
                self.sized_trunk = copy.deepcopy(known[key])
            return trunk
        raise AssertionError("the last sizing asks timm for nothing")

    def read_stage_levels(self) -> tuple[Level, ...]:
        """Return the levels of all blocks, those of the first branch of CrossViT, whose patches are the finest."""
        return super().read_stage_levels()[: getattr(self.trunk, "num_feature_blocks", None)]

    @property
    def pad_multiple(self) -> int:
        assert self.geometry is not None
        return self.geometry.multiple

    @property
    def pad_margins(self) -> tuple[int, int]:
        assert self.geometry is not None
        return self.geometry.before, self.geometry.after

    def adapt_trunk(self) -> None:
        self.exports_any_size = self.sized_trunk is None
        head_norm = _head_norm(self.trunk) if self.out_norm else None
        if not self.keep_head:
            if hasattr(self.trunk, "prune_intermediate_layers"):
                super().adapt_trunk()
            if head_norm is not None:  # it went with the classifier
                self.trunk.fc_norm = head_norm
            finish_in_first_branch(self.trunk)
        switch_off_bias_caches(self.trunk)
        for module in self.trunk.modules():
            if type(module) is NestLevel:
                graft(module, RectangularLevel)
        key = (self._build_key(), self.out_indices, self.out_norm, self.keep_head)
        known = _PLAN_CACHE.get(key)
        if known is None:
            self.geometry = self._find_geometry([self.stage_levels[index] for index in self.out_indices])
            removal = Removal() if self.keep_head else self._remove_unused()
            _remember(_PLAN_CACHE, key, (self.geometry, removal))
        else:
            self.geometry = known[0]
            known[1].apply(self.trunk)
        if self.with_cp:
            recompute_blocks(self.trunk)

    def _build_key(self) -> Hashable:
        """Name all that decides about the structure of the full trunk."""
        hosted = hosted_model(self.model_name)
        name = self.model_name if hosted is None else hosted.structure
        return name, self.in_channels, repr(sorted(self.trunk_arguments.items()))

    def _remove_unused(self) -> Removal:
        margin = sum(self.pad_margins)
        size = (self.pad_multiple + margin, 2 * self.pad_multiple + margin)
        with everything_trainable(self.trunk):
            maps = self._run(size)
            used = parameters_behind(maps)
        shapes = [feature_map.shape for feature_map in maps]
        return remove_unused(self.trunk, used, still_runs=lambda: self._shapes(size) == shapes)

    def forward_trunk(self, image: Tensor) -> TrunkOutput:
        maps, final = self._run_trunk(image)
        skips = self.geometry.skips if self.geometry is not None else ()
        if any(skips):
            maps = [feature_map[..., skip:, skip:] for feature_map, skip in zip(maps, skips, strict=True)]
        return maps, final

    def _run_trunk(self, image: Tensor) -> TrunkOutput:
        """Run the trunk as timm would build it for an image ``(B, C, H, W)``; its maps have the margins' cells, too."""
        trunk = self.trunk
        if self.sized_trunk is not None:
            trunk = self.sized_trunk.at(trunk, (image.shape[-2], image.shape[-1]))
        with redirect_attention(trunk, image):
            maps, final = self.forward_intermediates(trunk, image)
        if self.out_norm and (head_norm := _head_norm(trunk)) is not None:
            maps = [head_norm(feature_map.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) for feature_map in maps]
        return maps, final

    def _find_sized_trunk(self, trunk: nn.Module) -> SizedTrunk | None:
        """Return None where an image size changes nothing in the model that timm builds."""
        build = functools.partial(build_at_size, self.model_name, self.in_channels, self.trunk_arguments)
        native = self._native_size(trunk)
        try:
            sized = SizedTrunk(build, native)
            return sized if sized.differs_at((native[0] + 64, native[1] + 128)) else None
        except UnsupportedSizingError:
            return None
        except ValueError as error:
            raise ValueError(self._refusal(str(error), native)) from error

    def _run(self, size: Size) -> list[Tensor]:
        """Return the maps at a size, without data where the model allows it."""
        shape = (1, self.in_channels, *size)
        try:
            return probe(self, lambda adapter, image: adapter._run_trunk(image)[0], shape)
        except DataDependentOutputException:
            return probe(self, lambda adapter, image: adapter._run_trunk(image)[0], shape, real=True)

    def _shapes(self, size: Size) -> list[torch.Size]:
        """Return the shapes of the maps at a size; none where the trunk fails."""
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
