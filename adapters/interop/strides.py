"""The strides that another framework's heads take, and the answer to a user whose adapter gives others."""

from collections.abc import Sequence
from itertools import pairwise

from adapters.base import BackboneAdapter
from adapters.levels import DETECTOR_STRIDES, format_levels


def check_doubling(adapter: BackboneAdapter, head: str) -> None:
    """Require strides that are powers of two, each twice the one before.

    Args:
        adapter: whose maps the head takes.
        head: its name, for the message.

    Raises:
        ValueError: the adapter gives other strides.
    """
    strides = [level.stride for level in adapter.levels]
    if strides[0] & (strides[0] - 1) or any(coarse != 2 * fine for fine, coarse in pairwise(strides)):
        raise refusal(adapter, f"{head} takes strides that are powers of two, each twice the one before")


def check_strides(adapter: BackboneAdapter, wanted: Sequence[int], head: str) -> None:
    """Require these very strides.

    Args:
        adapter: whose maps the head takes.
        wanted: one stride for each map.
        head: its name, for the message.

    Raises:
        ValueError: the adapter gives other strides.
    """
    if [level.stride for level in adapter.levels] != list(wanted):
        raise refusal(adapter, f"{head} takes strides {', '.join(map(str, wanted))}", wanted)


def refusal(adapter: BackboneAdapter, demand: str, wanted: Sequence[int] = DETECTOR_STRIDES) -> ValueError:
    """Return the error for an adapter that gives other strides than a head takes, with the option that helps.

    Args:
        adapter: whose strides do not suit.
        demand: what the head takes, as a sentence without an end.
        wanted: strides that would suit.
    """
    strides = [level.stride for level in adapter.stage_levels]
    if len(set(wanted)) == len(wanted) and set(wanted) <= set(strides):
        remedy = f"out_indices={tuple(len(strides) - 1 - strides[::-1].index(stride) for stride in wanted)}"
    elif len(set(wanted)) < len(wanted):
        remedy = f"trunk=dict(output_stride={wanted[-1]})"
    else:
        remedy = f"pyramid=dict(type='SimpleFeaturePyramid', out_channels=256, out_strides={tuple(wanted)})"
    given = f"this {adapter.model_name} gives {format_levels(adapter.levels)}"
    return ValueError(f"{demand}, but {given}; build the adapter with {remedy}.")
