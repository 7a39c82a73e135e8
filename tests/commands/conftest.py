"""A drawn dataset, and configs in a folder of their own."""

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from lab.shapes import ShapesSettings, make_dataset
from mmengine.runner import runner
from small_runs import write_config


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    make_dataset(folder, ShapesSettings(train=8, val=3, size_range=(64, 80)))
    return folder


@pytest.fixture(autouse=True, scope="session")
def a_second_for_each_run() -> Iterator[None]:
    """Let no two runs of this process begin in one second, by which mmengine names their loggers and folders."""
    last = 0

    def now() -> int:
        nonlocal last
        last = max(int(time.time()), last + 1)
        return last

    clock = SimpleNamespace(time=now, strftime=time.strftime, localtime=time.localtime)
    with mock.patch.object(runner, "time", clock):
        yield


@pytest.fixture
def config(tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes a config of a kind into a folder that is the current one, far from the repository."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    return lambda text: write_config(text, data_root, tmp_path.name)
