"""Checks that the pyramids share: numbers of channels and others, and maps against them."""

import math
from collections.abc import Sequence

from torch import Tensor

#: Strides that the necks of detection and segmentation expect.
DEFAULT_OUT_STRIDES = (4, 8, 16, 32)


def check_channels(what: str, channels: int | Sequence[int]) -> tuple[int, ...]:
    """Check the channels of one map or of several, and return them as a tuple.

    Args:
        what: the argument that they were given as, for the message.
        channels: one number, or one for each map.

    Raises:
        ValueError: a number is no positive integer, or there is none.
    """
    counts = (channels,) if isinstance(channels, int) else tuple(channels)
    if not counts or not all(isinstance(count, int) and count > 0 for count in counts):
        raise ValueError(f"{what}={channels!r} must be a positive number of channels, or one for each map.")
    return counts


def check_numbers(limit: float = math.inf, **numbers: float) -> None:
    """Check numbers that may be 0 or anything above it, below a limit.

    Args:
        limit: the least number that is too large.
        numbers: each by the name of its argument, for the message.

    Raises:
        ValueError: one is no number, or out of range.
    """
    for what, number in numbers.items():
        if not isinstance(number, int | float) or not 0 <= number < limit:
            below = f" and below {limit}" if limit < math.inf else ""
            raise ValueError(f"{what}={number!r} must be a number of at least 0{below}.")


def check_maps(maps: Sequence[Tensor], in_channels: tuple[int, ...]) -> None:
    """Check the last maps, ``(B, C, h, w)`` each, against the channels that were announced for them.

    Raises:
        ValueError: there is no tuple of maps, or they have other channels.
    """
    if isinstance(maps, Tensor) or not maps:
        raise ValueError("A pyramid takes the tuple of maps of a backbone: give a single map as (map,).")
    got = tuple(x.shape[1] for x in maps[-len(in_channels) :])
    if got != in_channels:
        raise ValueError(f"The pyramid got maps of {got} channels but its in_channels are {in_channels}.")
