"""The folder of a run refuses other runs, other options and other images."""

import json
from pathlib import Path
from typing import Any

import pytest
from small_images import COUNT, extract_tiny, fill_disk_after, read_all

from adapters.extraction import run_folder as folder
from adapters.extraction.run_folder import PLAN, SETTINGS


def test_two_runs_refuse_each_other(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "PATIENCE", 0.05)
    out = tmp_path / "out"
    with folder.locked(out), pytest.raises(ValueError, match=r"another run is writing into .*--out"):
        extract_tiny(images, out)


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"size": (32, 48)}, r"size \[32, 48\] instead of null"),
        ({"batch_size": 3}, "batch_size 3 instead of 4"),
        ({"seed": 1}, "weights .* instead of"),
        ({"outputs": ("embedding",)}, "outputs"),
        ({"amp": True}, "amp true instead of false"),
    ],
    ids=str,
)
def test_other_options_are_refused(images: Path, tmp_path: Path, options: dict[str, Any], difference: str) -> None:
    out = tmp_path / "out"
    fill_disk_after(images, out, 0)
    with pytest.raises(ValueError, match=difference):
        extract_tiny(images, out, **options)


def test_other_images_are_refused(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    fill_disk_after(images, out, 0)
    with pytest.raises(ValueError, match=f"images 1 instead of {COUNT + 1}"):
        extract_tiny(next(images.glob("*.png")), out)


def test_a_folder_of_something_else_is_refused(images: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match=r"holds something else \(thesis.tex\)"):
        extract_tiny(images, tmp_path)


def test_a_run_of_an_earlier_version_is_resumed(images: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    """The headers in one line of JSON are from before they were indented."""
    out = tmp_path / "out"
    fill_disk_after(images, out, 5)
    (out / PLAN).write_text(json.dumps(json.loads((out / PLAN).read_text())))
    extract_tiny(images, out)
    assert read_all(out) == undisturbed


@pytest.mark.parametrize("text", ["", "{"])
def test_a_record_that_is_none_is_refused(images: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / SETTINGS).write_text(text)
    with pytest.raises(ValueError, match=r"run\.json is no record of a run"):
        extract_tiny(images, tmp_path)
    assert folder.recorded_threads(tmp_path) is None
