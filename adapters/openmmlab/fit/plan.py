"""Choosing levels of a timm model that stand where another backbone's levels stood."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from adapters.levels import Level, is_token_model, spread_blocks


@dataclass(frozen=True)
class Plan:
    """The arguments of an adapter that serves given positions, and which of its levels serves which.

    Attributes:
        options: ``out_indices``, and ``pyramid`` where one is needed, for the adapter.
        index_of: index of the adapter's level that serves each position.
        exact: each position gets the stride that it had (or a stage of the same depth, where strides are free).
    """

    options: dict[str, Any] = field(default_factory=dict)
    index_of: dict[int, int] = field(default_factory=dict)
    exact: bool = True


def plan_levels(
    stage_levels: Sequence[Level], stride_of_position: Mapping[int, int], old: Sequence[Level], strides_matter: bool
) -> Plan:
    """Choose stages or blocks, and a pyramid, for the positions that are read.

    Args:
        stage_levels: the level of each stage (or block) of the timm model.
        stride_of_position: the stride of each position that is read, by increasing position.
        old: all levels of the backbone that is replaced.
        strides_matter: anchors or a fixed part assume the strides; False where maps are resized anyway (mmseg's heads).

    Returns:
        A plan; where it is not exact, a bridge has to make the strides from the levels that it chooses.
    """
    if is_token_model(stage_levels):
        return _plan_tokens(stage_levels, stride_of_position, old, strides_matter)
    strides, wanted = [level.stride for level in stage_levels], [level.stride for level in old]
    indices = _stages_alike(strides, wanted, stride_of_position)
    if not indices and not strides_matter and not _increasing(wanted):
        indices = _stages_alike(strides, _undilated(wanted), stride_of_position)
    if indices:
        return _in_order(indices, stride_of_position)
    useful = [index for index, stride in enumerate(strides) if stride >= min(stride_of_position.values())]
    return Plan({"out_indices": tuple(useful[-4:] or [len(strides) - 1])}, exact=False)


def _plan_tokens(
    stage_levels: Sequence[Level], stride_of_position: Mapping[int, int], old: Sequence[Level], strides_matter: bool
) -> Plan:
    depth, patch = len(stage_levels), stage_levels[0].stride
    targets = list(stride_of_position.values())
    if targets == [patch]:
        return _in_order([depth - 1], stride_of_position)
    if _increasing(targets):
        kind = "SimpleFeaturePyramid" if strides_matter or len(targets) > depth else "TapPyramid"
        pyramid: dict[str, Any] = {"type": kind, "out_strides": tuple(targets)}
        if kind == "SimpleFeaturePyramid":
            pyramid["out_channels"] = 256
        return Plan({"pyramid": pyramid}, {position: index for index, position in enumerate(stride_of_position)})
    if not strides_matter and len(old) <= depth:
        spread = spread_blocks(len(old), depth)
        blocks = [spread[position] for position in stride_of_position]
        return _in_order(blocks, stride_of_position)
    return Plan({"out_indices": spread_blocks(4, depth)}, exact=False)


def _in_order(indices: Sequence[int], positions: Iterable[int]) -> Plan:
    return Plan({"out_indices": tuple(indices)}, {position: index for index, position in enumerate(positions)})


def _increasing(strides: Sequence[int]) -> bool:
    return all(earlier < later and later % earlier == 0 for earlier, later in pairwise(strides))


def _stages_alike(strides: Sequence[int], wanted: Sequence[int], positions: Iterable[int]) -> list[int]:
    """Find the stages of the strides that positions have; none where there are too few.

    Of several stages of one stride the deepest stands for the last position of that stride, and so on backwards.
    """
    indices: list[int] = []
    for position in positions:
        alike = [index for index, stride in enumerate(strides) if stride == wanted[position]]
        if len(alike) < wanted.count(wanted[position]):
            return []
        indices.append(alike[-wanted[position:].count(wanted[position])])
    return indices if all(earlier < later for earlier, later in pairwise(indices)) else []


def _undilated(strides: Sequence[int]) -> list[int]:
    """Strides that levels would have had without dilation: 4, 8, 16, 32 for 4, 8, 8, 8.

    A dilated stage keeps the depth of its features, so the stage of that depth is its equal; mmseg resizes all maps.
    """
    if any(later < earlier for earlier, later in pairwise(strides)):
        return list(strides)
    return [strides[0] * 2**position for position in range(len(strides))]


def plan_as_asked(levels: Sequence[Level], stride_of_position: Mapping[int, int], strides_matter: bool) -> Plan:
    """Let levels that the caller chose serve the positions that are read: by stride, else by order.

    Args:
        levels: of the adapter as asked for.
        stride_of_position: the stride of each position that is read.
        strides_matter: as for :func:`plan_levels`.
    """
    strides, targets = [level.stride for level in levels], list(stride_of_position.values())
    if strides == targets:
        return Plan({}, {position: index for index, position in enumerate(stride_of_position)})
    if _increasing(strides) and _increasing(targets) and set(targets) <= set(strides):
        by_stride = {position: strides.index(stride) for position, stride in stride_of_position.items()}
        if len(by_stride) == len(strides):
            return Plan({}, by_stride)
    if not strides_matter and len(strides) == len(stride_of_position):
        return Plan({}, {position: index for index, position in enumerate(stride_of_position)})
    return Plan({}, exact=False)
