"""Choosing levels of a timm model that stand where another backbone's levels stood."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from adapters.levels import Level, is_token_model, spread_blocks


@dataclass(frozen=True)
class Plan:
    """How an adapter is built so that it serves given positions.

    Attributes:
        options: ``out_indices``, and ``pyramid`` where one is needed, for the adapter.
        index_of: which of the adapter's levels serves each position.
        exact: whether each position gets the stride that it had (or a stage of the same depth, where strides are free).
    """

    options: dict[str, Any] = field(default_factory=dict)
    index_of: dict[int, int] = field(default_factory=dict)
    exact: bool = True


def plan_levels(
    stage_levels: Sequence[Level], wanted: Mapping[int, int], old: Sequence[Level], strides_matter: bool
) -> Plan:
    """Choose stages or blocks, and a pyramid, for the wanted positions.

    Args:
        stage_levels: what each stage (or block) of the timm model puts out.
        wanted: the stride of each position that is read, by increasing position.
        old: all levels of the backbone that is replaced.
        strides_matter: whether anchors or a fixed part assume the strides, or maps are resized anyway (mmseg's heads).

    Returns:
        A plan; where it is not exact, a bridge has to make the strides from the levels that it chooses.
    """
    if is_token_model(stage_levels):
        return _plan_tokens(stage_levels, wanted, old, strides_matter)
    strides = [level.stride for level in stage_levels]
    targets = list(wanted.values())
    if not strides_matter and not _increasing(targets):
        targets = _undilated(wanted, old)
    if _increasing(targets) and set(targets) <= set(strides):
        indices = [len(strides) - 1 - strides[::-1].index(target) for target in targets]
        return _in_order(indices, wanted)
    useful = [index for index, stride in enumerate(strides) if stride >= min(wanted.values())]
    return Plan({"out_indices": tuple(useful[-4:] or [len(strides) - 1])}, exact=False)


def _plan_tokens(
    stage_levels: Sequence[Level], wanted: Mapping[int, int], old: Sequence[Level], strides_matter: bool
) -> Plan:
    depth, patch = len(stage_levels), stage_levels[0].stride
    targets = list(wanted.values())
    if targets == [patch]:
        return _in_order([depth - 1], wanted)
    if _increasing(targets):
        kind = "SimpleFeaturePyramid" if strides_matter or len(targets) > depth else "TapPyramid"
        pyramid: dict[str, Any] = {"type": kind, "out_strides": tuple(targets)}
        if kind == "SimpleFeaturePyramid":
            pyramid["out_channels"] = 256
        return Plan({"pyramid": pyramid}, {position: index for index, position in enumerate(wanted)})
    if not strides_matter and len(old) <= depth:
        spread = spread_blocks(len(old), depth)
        blocks = [spread[position] for position in wanted]
        return _in_order(blocks, wanted)
    return Plan({"out_indices": spread_blocks(4, depth)}, exact=False)


def _in_order(indices: Sequence[int], wanted: Mapping[int, int]) -> Plan:
    return Plan({"out_indices": tuple(indices)}, {position: index for index, position in enumerate(wanted)})


def _increasing(strides: Sequence[int]) -> bool:
    return all(earlier < later and later % earlier == 0 for earlier, later in pairwise(strides))


def _undilated(wanted: Mapping[int, int], old: Sequence[Level]) -> list[int]:
    """Strides that the positions would have had without dilation: 4, 8, 16, 32 for 4, 8, 8, 8.

    A dilated stage keeps the depth of its features, so the stage of that depth is its equal; mmseg resizes all maps.
    """
    strides = [level.stride for level in old]
    if any(later < earlier for earlier, later in pairwise(strides)):
        return list(wanted.values())
    return [strides[0] * 2**position for position in wanted]


def plan_as_asked(levels: Sequence[Level], wanted: Mapping[int, int], strides_matter: bool) -> Plan:
    """Let levels that the caller chose serve the wanted positions: by stride, else by order.

    Args:
        levels: of the adapter as asked for.
        wanted: the stride of each position that is read.
        strides_matter: as for :func:`plan_levels`.
    """
    strides = [level.stride for level in levels]
    if _increasing(strides) and _increasing(list(wanted.values())) and set(wanted.values()) <= set(strides):
        by_stride = {position: strides.index(stride) for position, stride in wanted.items()}
        if len(by_stride) == len(strides):
            return Plan({}, by_stride)
    if not strides_matter and len(strides) == len(wanted):
        return Plan({}, {position: index for index, position in enumerate(wanted)})
    return Plan({}, exact=False)
