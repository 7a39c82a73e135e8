"""The norms that a pyramid's convolutions may have, by the names of OpenMMLab's ``norm_cfg``."""

import math
from collections.abc import Callable

from torch import nn

from adapters.necks.rescale import MapNorm

#: Groups of a group norm, where the channels divide by them.
GROUPS = 32

#: Each takes the number of channels.
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "LN": MapNorm,
    "GN": lambda channels: nn.GroupNorm(math.gcd(GROUPS, channels), channels),
    "BN": nn.BatchNorm2d,
    "SyncBN": nn.SyncBatchNorm,
}


def make_norm(name: str, channels: int) -> nn.Module:
    """Make the norm of a map of so many channels.

    Args:
        name: ``'LN'`` over the channels of each cell, ``'GN'`` over a group of channels of one image, ``'BN'`` over the
            batch, or ``'SyncBN'`` over the batches of all processes.
        channels: channels of the map.

    Raises:
        ValueError: there is no such norm.
    """
    if not isinstance(name, str) or name not in NORMS:
        raise ValueError(f"norm={name!r} is unknown: it must be {', '.join(NORMS)}.")
    return NORMS[name](channels)
