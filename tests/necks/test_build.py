"""Pyramids from the ``pyramid=dict(...)`` of an adapter."""

import copy
from collections.abc import Callable

import pytest
import torch
from mmengine import ConfigDict

from adapters.levels import Level
from adapters.necks.build import build_pyramid, count_wanted_maps


def test_build_pyramid_fills_in_channels_and_stride_and_leaves_the_config_alone() -> None:
    config = {"type": "SimpleFeaturePyramid", "out_channels": 24, "out_strides": [8, 16]}
    before = copy.deepcopy(config)
    pyramid = build_pyramid(config, [Level(8, 14), Level(12, 14)], "a_model")
    assert config == before
    assert (pyramid.in_channels, pyramid.wanted_maps) == (12, 1)
    assert pyramid.levels == (Level(24, 8), Level(24, 16))
    assert [output.shape[-2:] for output in pyramid([torch.randn(1, 12, 8, 8)])] == [(14, 14), (7, 7)]

    taps = build_pyramid(ConfigDict(type="TapPyramid"), [Level(count, 16) for count in (8, 10, 12, 14)], "a_model")
    assert taps.wanted_maps == 4
    assert taps.levels == (Level(8, 4), Level(10, 8), Level(12, 16), Level(14, 32))


def test_count_wanted_maps_answers_before_building() -> None:
    assert count_wanted_maps({"type": "SimpleFeaturePyramid", "out_strides": (4, 8)}) == 1
    assert count_wanted_maps({"type": "TapPyramid"}) == 4
    assert count_wanted_maps({"type": "TapPyramid", "out_strides": (8, 16)}) == 2


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"type": "FPN"}, "pyramid type 'FPN' is unknown: it must be SimpleFeaturePyramid or TapPyramid"),
        ({}, "pyramid type None is unknown: it must be SimpleFeaturePyramid or TapPyramid"),
        (
            "TapPyramid",
            "pyramid='TapPyramid' must be a dict whose type is SimpleFeaturePyramid or TapPyramid",
        ),
        (
            {"type": "SimpleFeaturePyramid", "out_chanels": 6},
            "key 'out_chanels' is unknown: Simple.* takes out_channels, out_strides, extra_level, norm",
        ),
        (
            {"type": "TapPyramid", "norm": False},
            "key 'norm' is unknown: TapPyramid takes out_channels, out_strides",
        ),
        ({"type": "TapPyramid", "in_channels": 8}, "'in_channels' is filled in by the adapter.*leave it out"),
        ({"type": "TapPyramid", "in_stride": 8}, "'in_stride' is filled in by the adapter.*leave it out"),
        (
            {"type": "TapPyramid", "out_strides": (4, 12)},
            r"out_strides=\(4, 12\) must be increasing .*\(4, 8, 16",
        ),
    ],
)
@pytest.mark.parametrize(
    "build",
    [lambda config: build_pyramid(config, [Level(8, 16)] * 4, "a_model"), count_wanted_maps],
    ids=["build", "count"],
)
def test_configs_that_are_refused(build: Callable, config: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(config)


def test_maps_of_several_strides_are_for_the_pyramid_of_the_last_map_alone() -> None:
    levels = [Level(8, 8), Level(12, 16)]
    assert build_pyramid({"type": "SimpleFeaturePyramid"}, levels, "a_model").in_channels == 12
    with pytest.raises(ValueError, match=r"a_model gives strides \[8, 16\]; leave pyramid out"):
        build_pyramid({"type": "TapPyramid", "out_strides": (8, 16)}, levels, "a_model")
