"""Images, and the bytes of a run over them that nothing disturbed."""

from pathlib import Path

import pytest
from small_images import COUNT, extract_tiny, make_images, read_all


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("images"), COUNT)


@pytest.fixture(scope="session")
def undisturbed(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    extract_tiny(images, out)
    return read_all(out)
