"""The base of all adapters: it builds timm's model, and pads, runs and crops every image in one place.

A family overrides some of these hooks, called in this order:

- when it is built: ``build_trunk``, ``read_stage_levels``, ``adapt_trunk``, and ``part_names`` where stages are frozen;
- for each image: ``pad_multiple``, ``pad_margins``, ``forward_trunk``;
- when weights are loaded: ``own_parts``, ``after_load``.

A family that has arguments of its own sets them before ``super().__init__()``, since the hooks read them.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.utils.checkpoint
from torch import Tensor, nn

from adapters.batches import Sizes, check_batch_norms, run_by_size, sizes_of_call
from adapters.kernels.free_sizes import with_plain_sizes
from adapters.levels import Level, choose_indices
from adapters.necks.build import build_pyramid, count_wanted_maps
from adapters.padding import check_image, crop_to_stride, pad_to_multiple
from adapters.preprocessing import Normalisation
from adapters.trunk import freezing
from adapters.trunk.build import build_trunk, check_model_name, check_trunk_arguments
from adapters.trunk.fused_mlps import fuse_mlps
from adapters.trunk.surgery import call_every_layer
from adapters.tuning.tunable import Tunable
from adapters.weights.factors import FACTORS
from adapters.weights.formats import Format
from adapters.weights.load import load_weights, log
from adapters.weights.report import Row
from adapters.weights.source import resolve_source
from adapters.weights.target import OwnPart

#: Maps of the requested stages, ``(B, C_i, h_i, w_i)`` each, and with ``keep_head`` the features that timm's own
#: ``forward_head`` takes, else None.
TrunkOutput = tuple[Sequence[Tensor], Tensor | None]


class BackboneAdapter(Tunable):
    """A timm model as a multi-scale feature extractor for images of any size.

    A family overrides some of the hooks that the module lists; everything else is the same for all.

    Args:
        model_name: a timm model name, with or without a weights tag (``'twins_svt_small.in1k'``), or that of a hosted
            model, ``'local-dir:FOLDER'`` or ``'hf-hub:OWNER/NAME'``.
        out_indices: stages of a pyramid model, blocks of a token model; negative ones count from the end. Default:
            all stages (where there are more than four, those of strides 4 to 32, or else the last four), or four evenly
            spaced blocks.
        weights: what :meth:`init_weights` loads: ``None``, ``'timm'`` (the hub's weights of the tag), a path, a URL or
            ``'hf-hub:owner/name'``.
        pyramid: config of a pyramid built inside the adapter, ``dict(type='SimpleFeaturePyramid', out_channels=256)``.
        in_channels: channels of the image.
        out_norm: apply the model's final norm to the maps where the model has one that fits them.
        drop_path_rate: the largest rate of stochastic depth.
        frozen_stages: -1 nothing, 0 the stem, n the stem and the first n stages (blocks of a token model).
        norm_eval: keep batch norms in eval mode during training.
        with_cp: gradient checkpointing, block by block, in training.
        trunk: further arguments for ``timm.create_model``.
        init_cfg: OpenMMLab's ``dict(type='Pretrained', checkpoint=...)``, the same as ``weights=...``; it also takes
            ``prefix='backbone.'``, where a checkpoint holds several backbones, and ``img_size=(H, W)``, for which its
            position embeddings are, where their grid is not square.
        peft: low-rank tuning, ``dict(type='LoRA', r=8, alpha=16, targets='attention')``, by the library peft: see
            :class:`adapters.tuning.options.LowRankOptions`. All else of the trunk is frozen.
        keep_head: remove nothing of timm's model, so that :meth:`forward_with_head` gives what its classifier takes.
        batch_padding: ``'exact'`` has every batch computed as :meth:`forward` does with ``sizes``, which a model of
            mmdet or mmseg then takes from its data samples. Default: padding is part of the image.

    Raises:
        ValueError: an unknown model or tag, indices out of range, an argument that timm or the adapter refuses.
    """

    #: timm files (``timm.models.<name>``) whose models this family serves.
    timm_modules: ClassVar[tuple[str, ...]] = ()
    #: Arguments that free timm's model from its image size.
    sizing: ClassVar[Mapping[str, Any]] = {}
    exports_any_size = True  #: A file of the model can leave height and width open.

    def __init__(
        self,
        model_name: str,
        out_indices: Sequence[int] | None = None,
        weights: str | None = None,
        pyramid: Mapping[str, Any] | None = None,
        in_channels: int = 3,
        out_norm: bool = False,
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        trunk: Mapping[str, Any] | None = None,
        peft: Mapping[str, Any] | None = None,
        init_cfg: Mapping[str, Any] | None = None,
        keep_head: bool = False,
        batch_padding: str | None = None,
    ) -> None:
        super().__init__()
        check_model_name(model_name)
        check_trunk_arguments(trunk or {})
        if batch_padding not in (None, "exact"):
            raise ValueError(f"batch_padding={batch_padding!r} is not allowed: it is 'exact' or None.")
        self.model_name = model_name
        self.in_channels = in_channels
        self.out_norm = out_norm
        self.norm_eval = norm_eval
        self.with_cp = with_cp
        self.keep_head = keep_head
        self.batch_padding = batch_padding
        self.weights = resolve_source(weights, init_cfg, model_name)
        self.trunk_arguments = dict(trunk or {})

        self.trunk = self.build_trunk(drop_path_rate)
        full_keys = frozenset(self.trunk.state_dict())
        self.stage_levels = self.read_stage_levels()
        pyramid_maps = None if pyramid is None else count_wanted_maps(pyramid)
        self.out_indices = choose_indices(out_indices, self.stage_levels, pyramid_maps, model_name)
        self.adapt_trunk()
        call_every_layer(self.trunk)
        fuse_mlps(self.trunk)
        #: Keys of timm's full model that this one has no use for; a checkpoint may hold them.
        self.pruned_keys = full_keys - frozenset(self.trunk.state_dict())

        trunk_levels = tuple(self.stage_levels[index] for index in self.out_indices)
        self.pyramid: nn.Module | None = None
        if pyramid is not None:
            self.pyramid = build_pyramid(pyramid, trunk_levels, model_name, in_channels, with_cp)
        self.levels: tuple[Level, ...] = trunk_levels if self.pyramid is None else self.pyramid.levels

        #: Names of the modules that ``train()`` leaves in eval mode.
        parts = self.part_names() if frozen_stages >= 0 or peft is not None else []
        self._frozen_modules = freezing.freeze_stages(self, parts, frozen_stages, model_name)
        if peft is not None:
            self.tune_trunk(peft, parts[0], model_name)
            self._frozen_modules = freezing.freeze(self, freezing.fixed_names(self))
        self._weights_loaded = False
        self.train()

    # What a family decides.

    def build_trunk(self, drop_path_rate: float) -> nn.Module:
        """Build the timm model; ``sizing`` says how it is freed from its image size."""
        return build_trunk(self.model_name, self.in_channels, drop_path_rate, self.trunk_arguments, self.sizing)

    def read_stage_levels(self) -> tuple[Level, ...]:
        """Return the level of each stage (or block) of the full trunk."""
        return tuple(Level(info["num_chs"], info["reduction"]) for info in self.trunk.feature_info)

    @property
    def pad_multiple(self) -> int:
        """The number of pixels to a multiple of which images are padded, right and bottom."""
        return self.stage_levels[-1].stride

    @property
    def pad_margins(self) -> tuple[int, int]:
        """The pixels of padding on top of that: before (left, top) and after (right, bottom)."""
        return (0, 0)

    def adapt_trunk(self) -> None:
        """Remove what the requested maps do not need, and free the rest from its image size."""
        if not self.keep_head:
            self.trunk.prune_intermediate_layers(list(self.out_indices), prune_norm=not self.out_norm, prune_head=True)

    def forward_trunk(self, image: Tensor) -> TrunkOutput:
        """Compute the maps of the requested stages, and the final features where the head is kept.

        Args:
            image: ``(B, C, H, W)``, ``H`` and ``W`` multiples of :attr:`pad_multiple` plus :attr:`pad_margins`.

        Returns:
            One ``(B, C_i, h_i, w_i)`` per index of ``out_indices``, ``h_i >= ceil(H / stride_i)``; then, with
            ``keep_head``, what timm's ``forward_features`` returns, tokens ``(B, N, C)`` or a map, else None.
        """
        return self.forward_intermediates(self.trunk, image)

    def part_names(self) -> list[list[str]]:
        """Group the names of the adapter's parameters: the stem, then one list per stage (or block)."""
        return [[f"trunk.{name}" for name in part] for part in freezing.trunk_parts(self.trunk)]

    @property
    def own_parts(self) -> tuple[OwnPart, ...]:
        """The tensors that the adapter may add to timm's model, and what loading does where a checkpoint differs."""
        unused = "" if self.pyramid is not None else "a pyramid that this adapter has not"
        return (OwnPart("pyramid.*", "start at random", unused), *(() if self.low_rank is None else (FACTORS,)))

    def after_load(self, checkpoint_format: Format) -> list[Row]:  # noqa: ARG002
        """Return notes for the report of a load: settings to look at with a checkpoint whose keys have this format."""
        return []

    # What is the same for all.

    @property
    def preprocessing(self) -> Normalisation:
        """The normalisation of images, of pixels 0 to 255, that the weights of the model's tag were trained with."""
        return Normalisation.of_timm(self.trunk.pretrained_cfg, self.in_channels)

    def forward(self, image: Tensor, sizes: Sizes | None = None) -> tuple[Tensor, ...]:
        """Compute the feature maps of an image of any size.

        Args:
            image: ``(B, C, H, W)``, any ``H, W >= 1``.
            sizes: ``(h, w)`` of each image of the batch, the rest of which is padding. Each image's cells are then what
                the image alone gives, and the cells beyond are zero. Default: padding is part of the image.

        Returns:
            Contiguous ``(B, C_i, ceil(H / s_i), ceil(W / s_i))``, one per entry of :attr:`levels`.

        Raises:
            ValueError: the image has another number of dimensions or channels, or sizes are missing or not possible.
        """
        check_image(image, self.in_channels, self.model_name)
        if sizes is None and self.batch_padding is not None:
            sizes = sizes_of_call(image)
        if sizes is None:
            return self._forward(image)[0]
        check_batch_norms(self)
        return run_by_size(lambda images: self._forward(images)[0], image, sizes, self.levels, self.pad_multiple)

    def forward_with_head(self, image: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Compute the feature maps and, in the same pass, the features that timm's own ``forward_head`` takes.

        ``adapter.trunk.forward_head(final)`` equals timm's classification of the padded image; at the model's native
        size there are no pads.

        Args:
            image: ``(B, C, H, W)``, any ``H, W >= 1``.

        Returns:
            The maps of :meth:`forward`, and tokens ``(B, N, C)`` or a map ``(B, C, h, w)`` or ``(B, h, w, C)``.

        Raises:
            ValueError: the adapter was built without ``keep_head=True``, or the image is refused by :meth:`forward`.
        """
        check_image(image, self.in_channels, self.model_name)
        maps, final = self._forward(image)
        if final is None:
            raise ValueError(f"this {self.model_name} has no head any more: build the adapter with keep_head=True.")
        return maps, final

    def _forward(self, image: Tensor) -> tuple[tuple[Tensor, ...], Tensor | None]:
        padded = pad_to_multiple(image, self.pad_multiple, self.pad_margins)
        maps, final = self.forward_trunk(with_plain_sizes(padded, (2, 3), self.pad_multiple))
        if self.pyramid is not None:
            # Maps have no cells in the margins.
            seen = [pad_to_multiple(image, self.pad_multiple)] if self.pyramid.sees_image else []
            maps = self.pyramid(maps, *seen)
        cropped = tuple(
            crop_to_stride(feature_map, image.shape[-2:], level.stride, image.dtype)
            for feature_map, level in zip(maps, self.levels, strict=True)
        )
        return cropped, final

    def forward_intermediates(self, trunk: Any, image: Tensor) -> TrunkOutput:
        """Run a trunk by timm's method, ``(B, C, H, W)`` -> what :meth:`forward_trunk` returns."""
        only_maps = not self.keep_head
        result = trunk.forward_intermediates(
            image,
            indices=list(self.out_indices),
            norm=self.out_norm,
            stop_early=only_maps,
            intermediates_only=only_maps,
        )
        return (result, None) if only_maps else (result[1], result[0])

    def run_block(self, block: nn.Module, *arguments: Any) -> Tensor:
        """Run a block on tokens ``(B, N, C)`` or a map and what else it takes, recomputed in backward if asked for."""
        if self.with_cp and torch.is_grad_enabled():
            return torch.utils.checkpoint.checkpoint(block, *arguments, use_reentrant=False)
        return block(*arguments)

    def init_weights(self) -> None:
        """Load the weights, once. The trunk keeps timm's own initialisation otherwise: no child is re-initialised.

        Raises:
            ValueError: the checkpoint does not fit the model, or cannot be read.
        """
        if self._weights_loaded:
            return
        report = load_weights(self, self.weights)
        self._weights_loaded = True
        if self.low_rank is not None:
            self.low_rank.after_load(self.trunk, report.loaded if report else frozenset())
            log(f"{self.model_name}: {self.low_rank.describe(self.trunk)}", logging.INFO)

    def train(self, mode: bool = True) -> "BackboneAdapter":
        """Switch mode; frozen parts (and batch norms under ``norm_eval``) stay in eval mode."""
        super().train(mode)
        if mode:
            # By name, since SyncBatchNorm conversion puts other modules in their places.
            frozen_modules = [self.get_submodule(name) for name in self._frozen_modules]
            for module in frozen_modules + (freezing.batch_norms(self.trunk) if self.norm_eval else []):
                module.eval()
        return self

    def extra_repr(self) -> str:
        padding = f", batch_padding={self.batch_padding!r}" if self.batch_padding else ""
        return f"{self.model_name!r}, out_indices={self.out_indices}, levels={self.levels}{padding}"
