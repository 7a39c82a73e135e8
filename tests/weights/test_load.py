"""Loading into an adapter: every family, at the right time, completely or not at all, and with a report."""

import logging
from pathlib import Path

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.model import BaseModule
from safetensors.torch import save_file
from small_checkpoints import SVT, TWINS, VIT, assert_holds, below, load_twins, save, timm_model, twins, vit
from zoo import TOKENS, ZOO, Spec, randomise

import adapters
from adapters.weights import load
from adapters.weights.load import load_weights
from adapters.weights.source import Source

MODEL = twins().state_dict()


# Every family, from timm's own checkpoint and from this package's.


@pytest.mark.parametrize("spec", ZOO, ids=str)
def test_every_family_loads_timms_checkpoint_and_its_own(tmp_path: Path, spec: Spec) -> None:
    model = timm_model(spec.model_name, dict(spec.options.get("trunk", {})))
    save_file(model.state_dict(), str(tmp_path / "a.safetensors"))
    adapter = spec.build(weights=str(tmp_path / "a.safetensors"))
    adapter.init_weights()
    assert_holds(adapter, model.state_dict())
    assert set(adapter.trunk.state_dict()) == set(model.state_dict()) - adapter.pruned_keys
    own = [key for key in adapter.state_dict() if not key.startswith("trunk.")]
    assert all(any(part.holds(key) for part in adapter.own_parts) for key in own)
    saved = {key: tensor.clone() for key, tensor in randomise(adapter, seed=5).state_dict().items()}
    path = save({"state_dict": below(saved, "backbone.")}, tmp_path / "detector.pth")
    load_weights(randomise(adapter, seed=6), Source(path))
    state = adapter.state_dict()
    assert state.keys() == saved.keys()
    assert all(torch.equal(tensor, state[key]) for key, tensor in saved.items())


def test_a_pyramid_inside_the_adapter_starts_at_random_and_that_is_said(tmp_path: Path, logged: list[str]) -> None:
    path = save(vit().state_dict(), tmp_path / "a.pth")
    pyramid = {"type": "SimpleFeaturePyramid", "out_channels": 24}
    adapter = adapters.create_adapter(VIT, weights=path, trunk=TOKENS, pyramid=pyramid)
    assert f"; {len(adapter.pyramid.state_dict())} of pyramid.* start at random, as it holds none" in logged[0]
    bare = save(adapter.state_dict(), tmp_path / "b.pth")
    adapters.create_adapter(VIT, weights=bare, trunk=TOKENS)
    assert f"left out {len(adapter.pyramid.state_dict())} (a pyramid that this adapter has not" in logged[1]


def test_half_precision_is_widened(tmp_path: Path) -> None:
    half = {key: tensor.half() for key, tensor in MODEL.items()}
    adapter = load_twins(save(half, tmp_path / "a.pth"))
    assert_holds(adapter, {key: tensor.float() for key, tensor in half.items()})


# When weights are loaded.


def test_building_never_loads(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.pth")
    adapter = adapters.TimmAdapter(SVT, weights=missing, trunk=TWINS)
    adapter(torch.zeros(1, 3, 32, 32))
    for _ in range(2):  # A load that failed is no load: the second call must not pass for one.
        with pytest.raises(ValueError, match="is no file"):
            adapter.init_weights()


def test_init_weights_loads_once(tmp_path: Path) -> None:
    path = tmp_path / "twins.pth"
    adapter = adapters.TimmAdapter(SVT, weights=save(twins().state_dict(), path), trunk=TWINS)
    adapter.init_weights()
    path.unlink()
    with torch.no_grad():
        adapter.trunk.blocks[0][0].norm1.weight.fill_(5.0)
    adapter.init_weights()
    assert (adapter.trunk.blocks[0][0].norm1.weight == 5).all()


def test_a_detectors_init_weights_reaches_the_adapter_and_spares_its_trunk(tmp_path: Path) -> None:
    class Detector(BaseModule):
        def __init__(self, name: str | None) -> None:
            super().__init__()
            self.backbone = adapters.TimmAdapter(SVT, weights=name, trunk=TWINS)

    model = twins()
    detector = Detector(save(model.state_dict(), tmp_path / "twins.pth"))
    detector.init_weights()
    assert_holds(detector.backbone, model.state_dict())
    scratch = Detector(None)
    before = {key: tensor.clone() for key, tensor in scratch.backbone.trunk.state_dict().items()}
    scratch.init_weights()
    assert_holds(scratch.backbone, before)


def test_a_random_start_is_told_once_and_only_in_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, int]] = []
    monkeypatch.setattr(load, "log", lambda *message: told.append(message))
    adapter = adapters.create_adapter(SVT, weights=None, trunk=TWINS)
    assert not told
    adapter.init_weights()
    adapter.init_weights()
    ((message, level),) = told
    assert message.startswith(f"{SVT}: the backbone starts from random weights (weights=None)")
    assert level == logging.WARNING


def test_the_log_is_the_runs_where_there_is_one(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MMLogger, "_instance_dict", type(MMLogger._instance_dict)())
    caplog.set_level(logging.WARNING)
    load.log("to Python's", logging.WARNING)
    assert [(record.name, record.getMessage()) for record in caplog.records] == [("adapters", "to Python's")]
    logger = MMLogger.get_instance("a run", logger_name="a run")
    lines: list[str] = []
    monkeypatch.setattr(logger, "handle", lambda record: lines.append(record.getMessage()))
    load.log("to the run's", logging.WARNING)
    assert lines == ["to the run's"]
    assert len(caplog.records) == 1
