"""A drawn dataset, and configs in a folder of their own."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
from lab.shapes import ShapesSettings, make_dataset
from mmengine.logging import MMLogger
from small_runs import write_config


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    make_dataset(folder, ShapesSettings(train=8, val=3, size_range=(64, 80)))
    return folder


@pytest.fixture
def config(tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes a config of a kind into a folder that is the current one, far from the repository."""
    monkeypatch.chdir(tmp_path)
    # mmengine names a run's logger by the second, and two tests of one second would write into one file.
    monkeypatch.setattr(MMLogger, "_instance_dict", OrderedDict())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    return lambda text: write_config(text, data_root, tmp_path.name)
