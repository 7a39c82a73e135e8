"""tools/learn_small_objects.py: the same detector around each pyramid, the time of its steps, and the table."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from lab.learning import check, small_objects
from lab.learning.small_objects import CASES, Budget, make_config, rows, time_steps
from mmengine.config import Config

from adapters.openmmlab.fit import check_fit
from adapters.openmmlab.run import register_scope


@pytest.mark.parametrize("name", CASES)
def test_the_cases_differ_in_their_pyramid_alone(name: str, tmp_path: Path) -> None:
    budget = Budget(iterations=7, side=96)
    first, cfg = (make_config(CASES[case], budget, 3, tmp_path) for case in (next(iter(CASES)), name))
    register_scope(cfg)
    check_fit(cfg)
    for key in ("pyramid", "out_indices"):
        first.model.backbone.pop(key)
        assert cfg.model.backbone.pop(key)
    assert cfg.to_dict() == first.to_dict()
    assert (cfg.train_cfg.max_iters, cfg.randomness.seed) == (7, 3)
    resizing = [step for step in cfg.train_dataloader.dataset.pipeline if step["type"] == "Resize"]
    assert [tuple(step["scale"]) for step in resizing] == [(96, 96)]


def test_steps_are_timed_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    def make_shallow_config(*arguments: Any) -> Config:
        cfg = make_config(*arguments)
        cfg.model.backbone.update(trunk=dict(depth=1), out_indices=(0,))
        cfg.model.neck.update(out_channels=32)
        cfg.model.bbox_head.update(stacked_convs=1, in_channels=32, feat_channels=32)
        return cfg

    monkeypatch.setattr(small_objects, "make_config", make_shallow_config)
    found = time_steps(["simple", "concat"], Budget(side=64), repeats=1)
    assert all(step["seconds"] > 0 and step["parameters"] > 5e5 for step in found.values())


def test_a_training_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resumed: list[bool] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess:
        resumed.append("--resume" in command)
        log = tmp_path / "run" / f"start_{len(resumed)}" / "vis_data" / "scalars.json"
        log.parent.mkdir(parents=True)
        log.write_text(json.dumps({"loss": len(resumed)}) + "\n")
        (tmp_path / "run" / Path(command[2]).name).write_text("the Runner's own reading of the config")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(check.subprocess, "run", run)
    first, other = Config({"seed": 1}), Config({"seed": 2})
    assert check.train(first, tmp_path / "run", resume=True) == [{"loss": 1}]
    assert check.train(first, tmp_path / "run", resume=True) == [{"loss": 1}, {"loss": 2}]
    assert check.train(other, tmp_path / "run", resume=True) == [{"loss": 3}]  # nothing of another config is left
    assert check.train(other, tmp_path / "run") == [{"loss": 4}]
    assert resumed == [True, True, True, False]


def test_the_table_compares_means_with_the_simple_pyramid() -> None:
    results = {f"{name} seed {seed}": {"AP_small": score} for name, seed, score in (
        ("simple", 0, 10.0), ("simple", 1, 20.0), ("concat", 0, 30.0), ("concat, wide stem", 0, 7.5),
    )}  # fmt: skip
    steps = {"simple": {"seconds": 0.2, "parameters": 6e6}, "concat": {"seconds": 0.25, "parameters": 5e6}}
    simple, concat, wide = rows(results, steps)
    assert (simple["mean"], simple["gain"], simple["time"]) == (15.0, 1.0, 1.0)
    assert (concat["AP_small of each seed"], concat["gain"], concat["time"]) == ("30.0", 2.0, 1.25)
    assert (wide["pyramid"], wide["gain"], wide["time"]) == ("concat, wide stem", 0.5, None)
    assert small_objects.rows({}, {}) == []
