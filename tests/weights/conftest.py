"""What the tests of weights share."""

from pathlib import Path
from typing import Any

import pytest
import timm
from safetensors.torch import save_file
from small_checkpoints import twins

from adapters.weights import load


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The messages that loading logs."""
    lines: list[str] = []
    monkeypatch.setattr(load, "log", lambda message, _: lines.append(message))
    return lines


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A hub that has one repository: a small Twins-SVT as safetensors."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    save_file(twins().state_dict(), str(tmp_path / "model.safetensors"))
    asked: list[str] = []

    def download(repo_id: str, filename: str, **_: Any) -> str:
        asked.append(f"{repo_id}/{filename}")
        return str(tmp_path / filename)

    monkeypatch.setattr(timm.models._hub, "hf_hub_download", download)
    return asked
