"""``dense-adapters export``: a file, its table, and mistakes in one line."""

from pathlib import Path

import pytest

from adapters.commands.export import main


def test_a_file_and_its_table(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "model.pt2"
    arguments = ["--backbone", "test_resnet", "--weights", "random", "--out-indices", "1", "2", "--size", "40", "56"]
    assert main([*arguments, "--batch", "1", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{out}: test_resnet, stride 4: ")
    assert "; batch 1, 40 x 56\n" in printed
    assert "| 1 | 40 x 56 | 0.0e+00 | 0.0e+00 |" in printed
    assert "the table is kept in model.pt2.check.md" in printed
    assert out.is_file()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--out", "model.pth"], "model.pth must end in .pt2 or .onnx"),
        (["--out", "model.pt2", "--size", "0", "64"], "--size 0 64 must be two positive numbers of pixels"),
        (["--out", "model.pt2", "--batch", "0"], "--batch 0 must be a positive number of images"),
        (["--out", "model.pt2", "--weights", "none.pth"], "none.pth"),
    ],
    ids=str,
)
def test_mistakes(arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=says):
        main(["--backbone", "test_resnet", *arguments])
    assert list(tmp_path.iterdir()) == []
