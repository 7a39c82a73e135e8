"""Writing new levels into a config: channels, strides, and indices of maps."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.registry import MODELS

from adapters.levels import Level
from adapters.necks.build import PYRAMIDS
from adapters.openmmlab.config_tree import Node, type_name
from adapters.openmmlab.fit.consumers import ChannelSetting, list_necks

#: Necks that make a pyramid of maps of one stride, and the setting that holds the factors.
RESCALING_NECKS = {"Feature2Pyramid": ("rescales", (4, 2, 1, 0.5)), "MultiLevelNeck": ("scales", (0.5, 1, 2, 4))}


def bypass_rescaling_neck(owner: Node, place: str, expected: Sequence[Level]) -> tuple[tuple[Level, ...], list[str]]:
    """Leave out the rescaling of a neck that makes strides from a ViT's single one, for a model that has strides.

    Returns:
        The levels that the parts behind the rescaling expect, and a line for each change.
    """
    necks = list_necks(owner, place)
    name = type_name(necks[0][1]) if necks else ""
    if name not in (*RESCALING_NECKS, *PYRAMIDS) or len({level.stride for level in expected}) != 1:
        return tuple(expected), []
    where, neck = necks[0]
    if name in PYRAMIDS:
        owner["neck"] = [part for _, part in necks[1:]] or None
        return MODELS.build(neck).levels, [f"{where}: {name} left out, since the levels have strides already"]
    key, default = RESCALING_NECKS[name]
    factors = neck.get(key, default)
    levels = tuple(
        Level(level.channels, round(level.stride / factor)) for level, factor in zip(expected, factors, strict=True)
    )
    if name == "Feature2Pyramid":
        owner["neck"] = [part for _, part in necks[1:]] or None
        return levels, [f"{where}: Feature2Pyramid left out, since the levels have strides already"]
    neck[key] = [1] * len(factors)
    return levels, [f"{where}.{key}: {list(factors)} -> {neck[key]}, since the levels have strides already"]


def write_levels(settings: Sequence[ChannelSetting], levels: Mapping[int, Level]) -> list[str]:
    """Write channels, and indices and strides where a setting has them, for the positions that are left.

    Args:
        settings: those that can be changed.
        levels: the level that now serves each position that is read.

    Returns:
        A line for each change.
    """
    order = {position: index for index, position in enumerate(sorted(levels))}
    lines: list[str] = []
    for setting in settings:
        kept = [position for position in setting.positions if position in levels]
        channels = [levels[position].channels for position in kept]
        node = setting.node
        single = isinstance(node[setting.key], int)
        assert not single or len(set(channels)) == 1
        _write(setting, setting.key, channels[0] if single else _like(node[setting.key], channels), lines)
        if dropped := len(setting.positions) - len(kept):
            _write(setting, "start_level", setting.unread - dropped, lines)
            if node.get("end_level", -1) >= 0:
                _write(setting, "end_level", node["end_level"] - dropped, lines)
        if setting.index_key:
            indices = [order[position] for position in kept]
            old = node.get(setting.index_key, -1)
            _write(setting, setting.index_key, indices[0] if isinstance(old, int) else _like(old, indices), lines)
        if setting.stride_key:
            strides = [levels[position].stride for position in kept]
            scalar = setting.stride_key == "in_stride"
            _write(
                setting, setting.stride_key, strides[0] if scalar else _like(node[setting.stride_key], strides), lines
            )
    return lines


def _like(old: Any, values: list[int]) -> Any:
    return tuple(values) if isinstance(old, tuple) else values


def _write(setting: ChannelSetting, key: str, value: Any, lines: list[str]) -> None:
    old = setting.node.get(key)
    if old != value:
        setting.node[key] = value
        lines.append(f"{setting.place}.{key}: {old} -> {value}")
