"""The state of a run is read by a list of classes, with a torch that has such a list and without."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging.history_buffer import HistoryBuffer

from adapters.openmmlab.run_state import load_state


@pytest.fixture(params=["torch's list", "our list"])
def _lists(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "our list":
        monkeypatch.delattr(torch.serialization, "safe_globals", raising=False)


@pytest.mark.usefixtures("_lists")
def test_what_a_run_keeps(tmp_path: Path) -> None:
    weights = torch.randn(3).half()
    state = {
        "state_dict": {"weight": weights, "part": weights[1:], "int": torch.arange(2)},
        "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "message_hub": {"loss": HistoryBuffer([1.0, 2.0], [1, 1]), "last": np.float64(0.5)},
    }
    torch.save(state, tmp_path / "run.pth")
    read = load_state(tmp_path / "run.pth", "cpu")
    assert read["message_hub"]["loss"].mean() == 1.5
    assert read["message_hub"]["last"] == 0.5
    assert read["optimizer"] == state["optimizer"]
    assert all(read["state_dict"][name].equal(value) for name, value in state["state_dict"].items())


@pytest.mark.usefixtures("_lists")
@pytest.mark.parametrize("stranger", [Path("a"), print])
def test_another_object_is_named(stranger: object, tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "more": stranger}, tmp_path / "run.pth")
    with pytest.raises(pickle.UnpicklingError, match=r"GLOBAL \S*(PosixPath|print)"):
        load_state(tmp_path / "run.pth", "cpu")
