"""The Ray engine writes the bytes of the local one."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import ray
from PIL import Image
from small_images import extract_tiny, fill_disk_after, read_all

from adapters.extraction.manifest import read_manifest


@pytest.mark.slow
def test_ray_gives_the_same_bytes_and_resumes(images: Path, tmp_path: Path) -> None:
    """Of dark images of 16 bits and their notes, too."""
    shutil.copytree(images, tmp_path / "images")
    images = tmp_path / "images"
    Image.fromarray(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)).save(images / "xray.png")
    extract_tiny(images, tmp_path / "local")
    undisturbed = read_all(tmp_path / "local")
    out = tmp_path / "out"
    fill_disk_after(images, out, 5)
    before = {file: file.stat().st_mtime_ns for file in (out / "features").iterdir()}
    extract_tiny(images, out, engine="ray", workers=1)
    assert read_all(out) == undisturbed
    assert all(file.stat().st_mtime_ns == time_ns for file, time_ns in before.items())
    assert not ray.is_initialized()
    notes = {Path(row["path"]).name: row["note"] for row in read_manifest(out) if row["note"]}
    assert notes == {"xray.png": "dark: the maximum is 4095 of 65535"}
