"""The pyramid of an adapter, built from the ``pyramid=dict(type=...)`` of its options."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from adapters.levels import Level
from adapters.necks.checks import DEFAULT_OUT_STRIDES
from adapters.necks.rescale import check_strides
from adapters.necks.simple_pyramid import SimpleFeaturePyramid
from adapters.necks.tap_pyramid import TapPyramid

Pyramid = SimpleFeaturePyramid | TapPyramid
PYRAMIDS: dict[str, type[Pyramid]] = {cls.__name__: cls for cls in (SimpleFeaturePyramid, TapPyramid)}


def build_pyramid(config: Mapping[str, Any], levels: Sequence[Level], model_name: str) -> Pyramid:
    """Build the pyramid of an adapter.

    Args:
        config: ``type`` and any keyword of that pyramid except those that the adapter fills in. Not changed.
        levels: channels and stride of each map that comes in.
        model_name: the backbone, for messages.

    Raises:
        ValueError: the type or a key is unknown, a key is the adapter's, a value is not allowed, or the maps have
            several strides.
    """
    pyramid, keywords = _read_config(config)
    strides = {level.stride for level in levels}
    if len(strides) > 1 and count_wanted_maps(config) > 1:
        raise ValueError(
            f"pyramid={dict(config)!r} takes maps of one stride, but {model_name} gives strides {sorted(strides)}; "
            "leave pyramid out, since this model is a pyramid already."
        )
    return pyramid(in_channels=[level.channels for level in levels], in_stride=levels[-1].stride, **keywords)


def count_wanted_maps(config: Mapping[str, Any]) -> int:
    """Count the maps that the pyramid of a config uses; an adapter asks before it chooses its blocks.

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
