"""The Ray engine writes the bytes of the local one."""

from pathlib import Path

import pytest
import ray
from small_images import extract_tiny, fill_disk_after, read_all


@pytest.mark.slow
def test_ray_gives_the_same_bytes_and_resumes(images: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "out"
    fill_disk_after(images, out, 5)
    before = {file: file.stat().st_mtime_ns for file in (out / "features").iterdir()}
    extract_tiny(images, out, engine="ray", workers=2)
    assert read_all(out) == undisturbed
    assert all(file.stat().st_mtime_ns == time_ns for file, time_ns in before.items())
    assert not ray.is_initialized()
