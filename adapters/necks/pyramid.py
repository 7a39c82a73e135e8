"""From the one stride of a token model to the strides that detection and segmentation necks expect.

A pyramid lives inside an adapter (``pyramid=dict(type="SimpleFeaturePyramid", out_channels=256)``, where the
adapter fills in ``in_channels`` and ``in_stride``), or stands in an mmdet or mmseg config as a neck, alone or
before another: ``neck=[dict(type="SimpleFeaturePyramid", in_channels=768), dict(type="FPN", ...)]``.

A map of ``h x w`` cells of stride ``s`` covers ``h * s`` by ``w * s`` pixels, and each level covers at least
that. Inside an adapter a crop follows, to ``ceil(H / stride)`` cells for the image's own H; a neck does not
know H, and its levels are those of the padded image.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from adapters.levels import Level, spread_blocks
from adapters.necks.rescale import MapNorm, check_strides, make_conv, make_resample, make_rescaling
from adapters.registry import register_model

DEFAULT_OUT_STRIDES = (4, 8, 16, 32)


@register_model
class SimpleFeaturePyramid(nn.Module):
    """All levels from the last map: the simple feature pyramid of ViTDet (arXiv 2203.16527, section 3).

    Each level rescales the map to its stride (doublings halve the channels) and ends with a 1x1 and a 3x3
    conv, each with a norm. A map whose stride is no power of two away from the levels' (patch 14) is first
    resampled to the nearest stride that is (16).

    Args:
        in_channels: channels of the map, or those of all maps that come in, of which the last is used.
        in_stride: image pixels per cell of the map; for a ViT, its patch size.
        out_channels: channels of every level.
        out_strides: strides of the levels, increasing, powers of two apart.
        extra_level: add a level at twice the last stride, which keeps every second cell of the last level,
            as detectron2's LastLevelMaxPool does for the proposals of large objects.
        norm: LayerNorm2d between two doublings and after each conv; without it the convs have a bias instead.

    Raises:
        ValueError: a stride or a number of channels is not allowed.
    """

    def __init__(
        self,
        in_channels: int | Sequence[int],
        in_stride: int = 16,
        out_channels: int = 256,
        out_strides: Sequence[int] = DEFAULT_OUT_STRIDES,
        extra_level: bool = False,
        norm: bool = True,
    ) -> None:
        super().__init__()
        self.out_strides = check_strides(in_stride, out_strides)
        self.in_channels = _check_channels("in_channels", in_channels)[-1]
        (self.out_channels,) = _check_channels("out_channels", [out_channels])
        self.extra_level = extra_level
        self.resample, stride = make_resample(in_stride, self.out_strides)
        self.stages = nn.ModuleList()
        for out_stride in self.out_strides:
            layers, channels = make_rescaling(self.in_channels, stride, out_stride, halve=True, norm=norm)
            for kernel_size in (1, 3):
                layers.append(make_conv(channels, out_channels, kernel_size, bias=not norm))
                channels = out_channels
                if norm:
                    layers.append(MapNorm(channels))
            self.stages.append(nn.Sequential(*layers))

    @property
    def wanted_maps(self) -> int:
        """How many maps ``forward`` uses."""
        return 1

    @property
    def levels(self) -> tuple[Level, ...]:
        """Channels and stride of each map that ``forward`` returns."""
        extra = (2 * self.out_strides[-1],) if self.extra_level else ()
        return tuple(Level(self.out_channels, stride) for stride in self.out_strides + extra)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps ``(B, C, h, w)``, the last one of stride ``in_stride``, to one map for each of ``levels``.

        Raises:
            ValueError: there is no map, or the last one has other channels than ``in_channels``.
        """
        _check_maps(maps, (self.in_channels,))
        x = self.resample(maps[-1])
        outputs = [stage(x).contiguous() for stage in self.stages]
        if self.extra_level:
            outputs.append(outputs[-1][..., ::2, ::2].contiguous())
        return tuple(outputs)


@register_model
class TapPyramid(nn.Module):
    """Each level from a map of its own, one block's per stride, as mmseg feeds UPerNet from a ViT.

    The maps go to the strides in their order, the earliest block's to the finest; doublings keep the
    channels. Maps whose stride is no power of two away from the levels' (patch 14) are first resampled to the
    nearest stride that is (16).

    Args:
        in_channels: channels of the maps: one number for all, or one for each.
        in_stride: image pixels per cell, the same for all maps; for a ViT, its patch size.
        out_channels: channels of every level, reached by a 1x1 conv before the rescaling, where cells are
            fewer. None keeps the channels of the maps.
        out_strides: strides of the levels, increasing, powers of two apart.

    Raises:
        ValueError: a stride or a number of channels is not allowed, or there is not one map for each stride.
    """

    def __init__(
        self,
        in_channels: int | Sequence[int],
        in_stride: int = 16,
        out_channels: int | None = None,
        out_strides: Sequence[int] = DEFAULT_OUT_STRIDES,
    ) -> None:
        super().__init__()
        self.out_strides = check_strides(in_stride, out_strides)
        self.in_channels = _check_channels("in_channels", in_channels)
        if isinstance(in_channels, int):
            self.in_channels *= self.wanted_maps
        self._check_count(len(self.in_channels))
        self.out_channels = self.in_channels
        if out_channels is not None:
            self.out_channels = _check_channels("out_channels", [out_channels]) * self.wanted_maps
        self.stages = nn.ModuleList()
        for channels, level in zip(self.in_channels, self.levels, strict=True):
            projection = [] if out_channels is None else [make_conv(channels, level.channels, 1, bias=True)]
            resample, stride = make_resample(in_stride, self.out_strides)
            rescaling, _ = make_rescaling(level.channels, stride, level.stride, halve=False, norm=True)
            self.stages.append(nn.Sequential(*projection, resample, *rescaling))

    @property
    def wanted_maps(self) -> int:
        """How many maps ``forward`` takes."""
        return len(self.out_strides)

    @property
    def levels(self) -> tuple[Level, ...]:
        """Channels and stride of each map that ``forward`` returns."""
        return tuple(Level(*level) for level in zip(self.out_channels, self.out_strides, strict=True))

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """One map ``(B, C_i, h, w)`` of stride ``in_stride`` per level, to one map for each of ``levels``.

        Raises:
            ValueError: there is not one map for each level, or one has other channels than ``in_channels``.
        """
        if not isinstance(maps, Tensor):
            self._check_count(len(maps))
        _check_maps(maps, self.in_channels)
        return tuple(stage(x).contiguous() for stage, x in zip(self.stages, maps, strict=True))

    def _check_count(self, count: int) -> None:
        wanted = self.wanted_maps
        if count != wanted:
            depth = max(12, wanted)  # of an example that is deep enough
            out_indices = spread_blocks(wanted, depth)
            raise ValueError(
                f"TapPyramid takes one map for each of out_strides={self.out_strides}, {wanted} in all, but "
                f"got {count}. Ask the backbone for {wanted} blocks, such as out_indices={out_indices} of a "
                f"model with {depth}, or give as many out_strides as there are maps."
            )


Pyramid = SimpleFeaturePyramid | TapPyramid
PYRAMIDS: dict[str, type[Pyramid]] = {cls.__name__: cls for cls in (SimpleFeaturePyramid, TapPyramid)}


def build_pyramid(config: Mapping[str, Any], in_channels: Sequence[int], in_stride: int) -> Pyramid:
    """Build the pyramid of an adapter.

    Args:
        config: ``type`` and any keyword of that pyramid except those that the adapter fills in. Not changed.
        in_channels: channels of each map that comes in.
        in_stride: the stride of all these maps.

    Raises:
        ValueError: the type or a key is unknown, a key is the adapter's, or a value is not allowed.
    """
    pyramid, keywords = _read_config(config)
    return pyramid(in_channels=in_channels, in_stride=in_stride, **keywords)


def count_wanted_maps(config: Mapping[str, Any]) -> int:
    """How many maps the pyramid of this config uses: an adapter asks before it chooses its blocks.

    Raises:
        ValueError: as ``build_pyramid``.
    """
    pyramid, keywords = _read_config(config)
    out_strides = check_strides(1, keywords.get("out_strides", DEFAULT_OUT_STRIDES))
    return len(out_strides) if pyramid is TapPyramid else 1


def _read_config(config: Mapping[str, Any]) -> tuple[type[Pyramid], dict[str, Any]]:
    types = " or ".join(PYRAMIDS)
    if not isinstance(config, Mapping):
        raise ValueError(f"pyramid={config!r} must be a dict whose type is {types}, or None for no pyramid.")
    keywords = dict(config)
    name = keywords.pop("type", None)
    if name not in PYRAMIDS:
        raise ValueError(f"pyramid type {name!r} is unknown: it must be {types}.")
    owned = ("in_channels", "in_stride")
    allowed = [key for key in inspect.signature(PYRAMIDS[name]).parameters if key not in owned]
    for key in keywords:
        if key in owned:
            raise ValueError(f"pyramid key {key!r} is filled in by the adapter from its maps: leave it out.")
        if key not in allowed:
            raise ValueError(f"pyramid key {key!r} is unknown: {name} takes {', '.join(allowed)}.")
    return PYRAMIDS[name], keywords


def _check_channels(what: str, channels: int | Sequence[int]) -> tuple[int, ...]:
    counts = (channels,) if isinstance(channels, int) else tuple(channels)
    if not counts or not all(isinstance(count, int) and count > 0 for count in counts):
        raise ValueError(f"{what}={channels!r} must be a positive number of channels, or one for each map.")
    return counts


def _check_maps(maps: Sequence[Tensor], in_channels: tuple[int, ...]) -> None:
    """Check the last maps against the channels that were announced for them."""
    if isinstance(maps, Tensor) or not maps:
        raise ValueError("A pyramid takes the tuple of maps of a backbone: give a single map as (map,).")
    got = tuple(x.shape[1] for x in maps[-len(in_channels) :])
    if got != in_channels:
        raise ValueError(f"The pyramid got maps of {got} channels but its in_channels are {in_channels}.")
