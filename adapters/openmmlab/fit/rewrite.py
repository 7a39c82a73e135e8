"""Writing new levels into a config: channels, strides, and which map is which."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.registry import MODELS

from adapters.levels import Level
from adapters.necks.pyramid import PYRAMIDS
from adapters.openmmlab.fit.config_tree import Node, type_name
from adapters.openmmlab.fit.consumers import Reader, list_necks

#: Necks that make a pyramid of maps of one stride, and the setting that holds the factors.
RESCALING_NECKS = {"Feature2Pyramid": ("rescales", (4, 2, 1, 0.5)), "MultiLevelNeck": ("scales", (0.5, 1, 2, 4))}


def bypass_rescaling_neck(owner: Node, place: str, expected: Sequence[Level]) -> tuple[tuple[Level, ...], list[str]]:
    """Where a neck makes strides from a ViT's single one, and the new model has strides: leave its rescaling out.

    Returns:
        The levels that the readers behind the rescaling expect, and what was changed.
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


def write_levels(readers: Sequence[Reader], levels: Mapping[int, Level]) -> list[str]:
    """Write channels (and indices and strides where a reader has them) for the positions that are left.

    Args:
        readers: those that can be changed.
        levels: the level that now serves each position; positions that nobody reads are not there.

    Returns:
        What was changed.
    """
    order = {position: index for index, position in enumerate(sorted(levels))}
    lines: list[str] = []
    for reader in readers:
        kept = [position for position in reader.positions if position in levels]
        channels = [levels[position].channels for position in kept]
        node = reader.node
        single = isinstance(node[reader.key], int)
        assert not single or len(set(channels)) == 1
        _write(reader, reader.key, channels[0] if single else _like(node[reader.key], channels), lines)
        if dropped := len(reader.positions) - len(kept):
            _write(reader, "start_level", reader.unread - dropped, lines)
            if node.get("end_level", -1) >= 0:
                _write(reader, "end_level", node["end_level"] - dropped, lines)
        if reader.index_key:
            indices = [order[position] for position in kept]
            old = node.get(reader.index_key, -1)
            _write(reader, reader.index_key, indices[0] if isinstance(old, int) else _like(old, indices), lines)
        if reader.stride_key:
            strides = [levels[position].stride for position in kept]
            scalar = reader.stride_key == "in_stride"
            _write(reader, reader.stride_key, strides[0] if scalar else _like(node[reader.stride_key], strides), lines)
    return lines


def _like(old: Any, values: list[int]) -> Any:
    return tuple(values) if isinstance(old, tuple) else values


def _write(reader: Reader, key: str, value: Any, lines: list[str]) -> None:
    old = reader.node.get(key)
    if old != value:
        reader.node[key] = value
        lines.append(f"{reader.place}.{key}: {old} -> {value}")
