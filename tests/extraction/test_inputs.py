"""Folders, globs, lists and COCO annotations as lists of images."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from adapters.extraction.inputs import find_images


def test_inputs(tmp_path: Path) -> None:
    for name in (
        "b.jpg",
        "a.PNG",
        "deep/c.jpeg",
        "out/sheet.png",
        "notes.md",
        "images/train/x.jpg",
        "images/val/x.jpg",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    def names(*sources: str, **options: Any) -> list[str]:
        found = find_images([tmp_path / source for source in sources], **options)
        return [str(path.relative_to(tmp_path)) for path in found]

    assert names("deep", "b.jpg", "deep/c.jpeg") == ["deep/c.jpeg", "b.jpg"]
    assert names("") == ["a.PNG", "b.jpg", "deep/c.jpeg", "images/train/x.jpg", "images/val/x.jpg", "out/sheet.png"]
    assert "out/sheet.png" not in names("", exclude=tmp_path / "out")
    assert names("*.jpg", "**/c.*") == ["b.jpg", "deep/c.jpeg"]
    (tmp_path / "list.txt").write_text("b.jpg\n\ndeep/c.jpeg\nmissing.jpg\n")
    assert names("list.txt") == ["b.jpg", "deep/c.jpeg", "missing.jpg"]
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfb.jpg\r\ndeep/c.jpeg\r\n")
    assert names("list.txt") == ["b.jpg", "deep/c.jpeg"]
    coco = tmp_path / "annotations" / "instances_val.json"
    coco.parent.mkdir()
    coco.write_text(json.dumps({"images": [{"file_name": "x.jpg"}]}))
    assert names("annotations/instances_val.json") == ["images/val/x.jpg"]
    assert names("annotations/instances_val.json", image_root=tmp_path / "images/train") == ["images/train/x.jpg"]
    for source, message in (
        ("none", "there is no '.*none'"),
        ("none/*.jpg", "holds no images"),
        ("annotations/bad.json", "is no COCO json"),
        ("annotations/lost.json", "names 'y.jpg', which is not in .*--image-root"),
    ):
        (tmp_path / "annotations/bad.json").write_text("[]")
        (tmp_path / "annotations/lost.json").write_text(json.dumps({"images": [{"file_name": "y.jpg"}]}))
        with pytest.raises(ValueError, match=message):
            names(source)


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    """Twice where two lead to one, and never in circles."""
    (tmp_path / "far/below").mkdir(parents=True)
    (tmp_path / "far/below/x.jpg").touch()
    (tmp_path / "in").mkdir()
    for link, target in (("in/one", "far"), ("in/two", "far"), ("far/below/back", "far"), ("in/gone", "nowhere")):
        (tmp_path / link).symlink_to(tmp_path / target)
    found = [str(path.relative_to(tmp_path)) for path in find_images([tmp_path / "in"])]
    assert found == ["in/one/below/x.jpg", "in/two/below/x.jpg"]


def test_what_is_named_as_an_image_is_listed(tmp_path: Path) -> None:
    """Links to nowhere and in circles, and a folder without images, so that they fail where they are read."""
    (tmp_path / "in/empty.png").mkdir(parents=True)
    (tmp_path / "in/frames.gif").mkdir()
    (tmp_path / "in/frames.gif/1.npy").touch()
    (tmp_path / "in/gone.png").symlink_to("nowhere")
    (tmp_path / "in/loop.JPG").symlink_to("loop.JPG")
    expected = ["in/empty.png", "in/frames.gif/1.npy", "in/gone.png", "in/loop.JPG"]
    assert [str(path.relative_to(tmp_path)) for path in find_images([tmp_path / "in"])] == expected
    assert find_images([tmp_path / "in/gone.png"]) == [tmp_path / "in/gone.png"]
    assert find_images([tmp_path / "in/*.png"])[-1] == tmp_path / "in/gone.png"
    (tmp_path / "list.txt").write_text("in/gone.png")
    assert find_images([tmp_path / "list.txt"]) == [tmp_path / "in/gone.png"]
    (tmp_path / "coco.json").write_text(json.dumps({"images": [{"file_name": "in/gone.png"}]}))
    assert find_images([tmp_path / "coco.json"]) == [tmp_path / "in/gone.png"]


def test_a_folder_that_cannot_be_searched_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)  # root may search everything
    with pytest.raises(ValueError, match="closed cannot be searched: Permission denied"):
        find_images([tmp_path])
