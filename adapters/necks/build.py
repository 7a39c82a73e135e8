"""The pyramid of an adapter, built from the ``pyramid=dict(type=...)`` of its options."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from adapters.levels import Level
from adapters.necks.checks import DEFAULT_OUT_STRIDES
from adapters.necks.concat_prior import ConcatPrior
from adapters.necks.extract_prior import ExtractPrior
from adapters.necks.rescale import check_strides
from adapters.necks.simple_pyramid import SimpleFeaturePyramid
from adapters.necks.tap_pyramid import TapPyramid

Pyramid = SimpleFeaturePyramid | TapPyramid | ConcatPrior | ExtractPrior

#: The pyramids by their type and, where one has several, by its mode; the first mode is the default.
PYRAMIDS: dict[str, dict[str, type[Pyramid]]] = {
    "SimpleFeaturePyramid": {"": SimpleFeaturePyramid},
    "TapPyramid": {"": TapPyramid},
    "SpatialPrior": {"concat": ConcatPrior, "extract": ExtractPrior},
}

#: Keywords that the adapter fills in, where a pyramid has them.
FILLED_IN = ("in_channels", "in_stride", "image_channels", "with_cp")


def build_pyramid(
    config: Mapping[str, Any],
    levels: Sequence[Level],
    model_name: str,
    image_channels: int = 3,
    with_cp: bool = False,
) -> Pyramid:
    """Build the pyramid of an adapter.

    Args:
        config: ``type``, ``mode`` where the type has several, and any keyword of that pyramid except those that the
            adapter fills in. Not changed.
        levels: channels and stride of each map that comes in.
        model_name: the backbone, for messages.
        image_channels: channels of the image.
        with_cp: whether the pyramid computes blocks anew in the backward pass, if it has some.

    Raises:
        ValueError: the type or a key is unknown, a key is the adapter's, a value is not allowed, or the maps have
            several strides.
    """
    pyramid, keywords = _read_config(config)
    strides = {level.stride for level in levels}
    if len(strides) > 1 and pyramid is not SimpleFeaturePyramid:  # which takes the last map alone
        raise ValueError(
            f"pyramid={dict(config)!r} takes maps of one stride, but {model_name} gives strides {sorted(strides)}; "
            "leave pyramid out, since this model is a pyramid already."
        )
    values = ([level.channels for level in levels], levels[-1].stride, image_channels, with_cp)
    allowed = inspect.signature(pyramid).parameters
    keywords.update((key, value) for key, value in zip(FILLED_IN, values, strict=True) if key in allowed)
    return pyramid(**keywords)


def count_wanted_maps(config: Mapping[str, Any]) -> int:
    """Count the maps that the pyramid of a config uses by default; an adapter asks before it chooses its blocks.

    Raises:
        ValueError: as ``build_pyramid``.
    """
    pyramid, keywords = _read_config(config)
    out_strides = check_strides(1, keywords.get("out_strides", DEFAULT_OUT_STRIDES))
    return 1 if pyramid is SimpleFeaturePyramid else len(out_strides)


def _read_config(config: Mapping[str, Any]) -> tuple[type[Pyramid], dict[str, Any]]:
    types = " or ".join(PYRAMIDS)
    if not isinstance(config, Mapping):
        raise ValueError(f"pyramid={config!r} must be a dict whose type is {types}, or None for no pyramid.")
    keywords = dict(config)
    name = keywords.pop("type", None)
    if name not in PYRAMIDS:
        raise ValueError(f"pyramid type {name!r} is unknown: it must be {types}.")
    modes = PYRAMIDS[name]
    mode = keywords.pop("mode", next(iter(modes))) if len(modes) > 1 else ""
    if mode not in modes:
        raise ValueError(f"pyramid mode {mode!r} is unknown: {name} has {' and '.join(modes)}.")
    allowed = [key for key in inspect.signature(modes[mode]).parameters if key not in FILLED_IN]
    for key in keywords:
        if key in FILLED_IN:
            raise ValueError(f"pyramid key {key!r} is filled in by the adapter: leave it out.")
        if key not in allowed:
            taker = f"{name} in mode {mode!r}" if mode else name
            raise ValueError(f"pyramid key {key!r} is unknown: {taker} takes {', '.join(allowed)}.")
    return modes[mode], keywords
