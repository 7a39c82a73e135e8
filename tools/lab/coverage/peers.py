"""The wrappers that exist: timm's ``features_only`` and mmseg's ``TIMMBackbone``, asked for the same maps."""

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import timm
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from lab.coverage.checks import Size, outcome, random_image, require
from lab.coverage.representatives import Representative

#: Pixels from which on only shapes are computed.
LARGE = 1 << 19

Peer = tuple[Any, Sequence[int], Sequence[int]]


def measure_timm(one: Representative, sizes: Sequence[Size]) -> Iterator[tuple[str, str]]:
    """Yield ``('build', outcome)``, then one outcome for each size, of timm's ``features_only``."""

    def build() -> Peer:
        model = timm.create_model(one.model_name, features_only=True)
        return model, model.feature_info.channels(), model.feature_info.reduction()

    yield from _measure(build, sizes)


def measure_mmseg(one: Representative, sizes: Sequence[Size]) -> Iterator[tuple[str, str]]:
    """Yield the same for mmseg's ``TIMMBackbone``."""

    def build() -> Peer:
        from mmseg.models.backbones import TIMMBackbone

        model = TIMMBackbone(one.model_name, features_only=True, pretrained=False)
        info = model.timm_model.feature_info
        return model, info.channels(), info.reduction()

    yield from _measure(build, sizes)


def _measure(build: Any, sizes: Sequence[Size]) -> Iterator[tuple[str, str]]:
    built: list[Peer] = []
    answer = outcome(lambda: built.append(build()))
    yield "build", answer
    for size in sizes if built else ():
        yield f"{size[0]}x{size[1]}", outcome(_check, *built[0], size)


def _check(model: Any, channels: Sequence[int], strides: Sequence[int], size: Size) -> None:
    """Require maps ``(1, C, ceil(H / stride), ceil(W / stride))`` by its own word; large images have no data."""
    large = size[0] * size[1] > LARGE
    model.eval()
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) if large else nullcontext(), torch.no_grad():
            maps = model(torch.empty(1, 3, *size) if large else random_image(size))
    except DataDependentOutputException:
        with torch.no_grad():
            maps = model(random_image(size))
    require(len(maps) == len(channels), f"{len(maps)} maps for {len(channels)} entries of feature_info")
    for feature_map, count, stride in zip(maps, channels, strides, strict=True):
        expected = (1, count, *(math.ceil(side / stride) for side in size))
        require(tuple(feature_map.shape) == expected, f"{tuple(feature_map.shape)} where {expected} is right")
