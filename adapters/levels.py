"""Levels of a feature pyramid, indices of stages and blocks, and what follows from strides alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

#: The strides that detectors and segmentors expect, and get by default where a model has these among others.
DETECTOR_STRIDES = (4, 8, 16, 32)


@dataclass(frozen=True)
class Level:
    """One map of a feature pyramid.

    Attributes:
        channels: channels of the map, ``C`` in ``(B, C, ceil(H / stride), ceil(W / stride))``.
        stride: image pixels per cell, the same in both directions.
    """

    channels: int
    stride: int


def format_levels(levels: Sequence[Level]) -> str:
    """Levels for a message: ``stride 4: 64 channels, stride 8: 128 channels``."""
    return ", ".join(f"stride {level.stride}: {level.channels} channels" for level in levels)


def resolve_indices(indices: Sequence[int], count: int, what: str, argument: str = "out_indices") -> tuple[int, ...]:
    """Count negative indices from the end and check the result.

    Args:
        indices: as a user gives them.
        count: how many stages or blocks there are to choose from.
        what: who is asked, for the message (``"twins_svt_small has 4 stages"``).
        argument: the name of the argument, for the message.

    Returns:
        The indices, all in ``[0, count)`` and strictly increasing.

    Raises:
        ValueError: an index is no integer or out of range, or the order is not strictly increasing.
    """
    if isinstance(indices, int | str) or not all(isinstance(index, int) for index in indices):
        raise ValueError(f"{argument}={indices!r} must be a sequence of integers, such as (0, 1); {what}.")
    indices = tuple(indices)
    allowed = f"{what}, so each index must lie in {-count}..{count - 1}"
    if not indices:
        raise ValueError(f"{argument} is empty; {allowed}. Leave it out for the default.")
    for index in indices:
        if not -count <= index < count:
            raise ValueError(f"{argument}={indices} holds {index}, which is out of range; {allowed}.")
    resolved = tuple(index % count for index in indices)
    if any(later <= earlier for earlier, later in pairwise(resolved)):
        raise ValueError(
            f"{argument}={indices} stands for {resolved}, which is not strictly increasing; {allowed}, "
            "in increasing order and without repeats."
        )
    return resolved


def is_token_model(stage_levels: Sequence[Level]) -> bool:
    """Tell whether every block of a model has the same stride, as in a vision transformer."""
    return len(stage_levels) > 1 and len({level.stride for level in stage_levels}) == 1


def spread_blocks(count: int, depth: int) -> tuple[int, ...]:
    """Choose ``count`` evenly spaced blocks of ``depth``, the last block among them.

    >>> spread_blocks(4, 12)
    (2, 5, 8, 11)

    Returns:
        Increasing indices without repeats; fewer than ``count`` where there are fewer blocks.
    """
    return tuple(sorted({max(depth * (place + 1) // count - 1, 0) for place in range(count)}))


def choose_indices(
    out_indices: Sequence[int] | None, stage_levels: Sequence[Level], pyramid_maps: int | None, model_name: str
) -> tuple[int, ...]:
    """Resolve the stages or blocks that an adapter is asked for, or choose them where its user names none.

    Args:
        out_indices: as the user gives them.
        stage_levels: the level of each stage or block of the model.
        pyramid_maps: the number of maps that the pyramid after them takes; None without one.
        model_name: the backbone, for messages.

    Raises:
        ValueError: as :func:`resolve_indices`.
    """
    if out_indices is None:
        return default_indices(stage_levels, pyramid_maps)
    count, kind = len(stage_levels), "blocks" if is_token_model(stage_levels) else "stages"
    return resolve_indices(out_indices, count, f"{model_name} has {count} {kind}")


def default_indices(stage_levels: Sequence[Level], pyramid_maps: int | None) -> tuple[int, ...]:
    """Choose the stages or blocks that an adapter gives where its user names none.

    Args:
        stage_levels: the level of each stage or block of the model.
        pyramid_maps: the number of maps that the pyramid after them takes; None without one.

    Returns:
        The last one for a pyramid of one map; evenly spaced blocks of a token model, four without a pyramid; or all
        stages, and of more than four those of the detectors' strides, or else the last four.
    """
    count = len(stage_levels)
    if pyramid_maps == 1:
        return (count - 1,)
    if is_token_model(stage_levels):
        return spread_blocks(4 if pyramid_maps is None else pyramid_maps, count)
    strides = [level.stride for level in stage_levels]
    if set(DETECTOR_STRIDES) <= set(strides):
        return tuple(count - 1 - strides[::-1].index(stride) for stride in DETECTOR_STRIDES)
    return tuple(range(max(count - 4, 0), count))
