"""Files that are not there, or of another kind."""

from pathlib import Path

import pytest

from adapters.export.reading import open_file


@pytest.mark.parametrize(
    ("name", "says"),
    [("none.onnx", "there is no file none.onnx"), ("model.pth", "model.pth must end in .pt2 or .onnx")],
)
def test_mistakes(name: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=says):
        open_file(name)
