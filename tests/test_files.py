"""Atomic writes and JSON files."""

from pathlib import Path

import pytest

from adapters.files import atomic_write, read_json, write_json, write_text


class Killed(BaseException):
    """A stand-in for a signal."""


def write_half(path: Path) -> None:
    with atomic_write(path) as partial:
        partial.write_text("tw")
        raise Killed


def test_a_file_is_written_completely_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    write_text(path, "one")
    with pytest.raises(Killed):
        write_half(path)
    assert path.read_text() == "one"
    assert [file.name for file in path.parent.iterdir()] == ["a.txt"]


def test_json_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    assert read_json(path, default={}) == {}
    write_json(path, {"levels": [1, None]})
    assert read_json(path) == {"levels": [1, None]}
    assert path.read_text().endswith("\n")
