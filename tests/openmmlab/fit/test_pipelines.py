"""The steps of pipelines that know how images are normalised."""

import pytest
from mmengine.config import ConfigDict

from adapters.openmmlab.fit.pipelines import (
    check_colour_steps,
    find_normalising_step,
    follow_fill,
    leave_normalising_to_the_model,
    loaded_order,
)
from adapters.preprocessing import Normalisation

FORMER = Normalisation((1.0, 2.0, 3.0), (4.0, 5.0, 6.0), None)
NEW = Normalisation((10.0, 20.0, 30.0), (40.0, 50.0, 60.0))


def config(*steps: dict) -> ConfigDict:
    """A config with these steps in a branch of its pipeline."""
    branch = dict(type="MultiBranch", sup=[*steps, dict(type="Pack")])
    pipeline = [dict(type="LoadImageFromFile"), branch]
    return ConfigDict(model=dict(type="Normalize"), train_dataloader=dict(dataset=dict(pipeline=pipeline)))


def steps_of(cfg: ConfigDict) -> list[ConfigDict]:
    return cfg.train_dataloader.dataset.pipeline[1].sup


def test_loaders_tell_the_order() -> None:
    cfg = config()
    assert loaded_order(cfg) == "BGR"
    cfg.train_dataloader.dataset.pipeline[0].imdecode_backend = "tifffile"
    assert loaded_order(cfg) == "RGB"
    cfg.train_dataloader.dataset.pipeline[0] = dict(type="mmseg.LoadSingleRSImageFromFile")
    assert loaded_order(cfg) == "RGB"
    assert loaded_order(ConfigDict()) == "BGR"


def test_steps_for_colours_are_refused_with_other_channels() -> None:
    cfg = config(dict(type="mmdet.YOLOXHSVRandomAug"), dict(type="PhotoMetricDistortion"))
    check_colour_steps(cfg, 3)
    check_colour_steps(config(), 5)
    with pytest.raises(ValueError, match=r"in_channels=5, and YOLOXHSVRandomAug, PhotoMetricDistortion work"):
        check_colour_steps(cfg, 5)


def test_normalising_steps_are_found_and_removed() -> None:
    cfg = config(dict(type="Normalize", mean=[0], std=[1]), dict(type="Resize"))
    assert find_normalising_step(cfg) == dict(type="Normalize", mean=[0], std=[1])
    lines = leave_normalising_to_the_model(cfg)
    assert lines == ["pipelines: 1 Normalize left out, since model.data_preprocessor normalises"]
    assert [step.type for step in steps_of(cfg)] == ["Resize", "Pack"]
    assert cfg.model.type == "Normalize"
    assert find_normalising_step(cfg) is None
    assert leave_normalising_to_the_model(cfg) == []


def test_the_mean_colour_follows() -> None:
    cfg = config(
        dict(type="Expand", mean=[1, 2, 3], to_rgb=False),
        dict(type="RandomCenterCropPad", mean=(1, 2, 3), std=(4, 5, 6), to_rgb=False),
        dict(type="Expand", mean=[0, 0, 0], to_rgb=True),  # black, on purpose
    )
    lines = follow_fill(cfg, FORMER, NEW, "BGR")
    expand, crop, black = steps_of(cfg)[:3]
    assert expand == dict(type="Expand", mean=[10, 20, 30], to_rgb=True)
    assert (crop.mean, crop.std, crop.to_rgb) == ([10, 20, 30], [40, 50, 60], True)
    assert black.mean == [0, 0, 0]
    assert len(lines) == 2
    assert follow_fill(cfg, None, NEW, "BGR") == []
