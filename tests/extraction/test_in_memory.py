"""``adapters.extract`` gives the features of the folder."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_images import COUNT, TINY, extract_tiny, tiny_extractor

import adapters
from adapters.extraction.manifest import read_manifest


def test_python_gives_the_same_as_the_folder(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = tiny_extractor(outputs=("pyramid", "embedding")).options
    extract_tiny(images, out, outputs=("pyramid", "embedding"))
    rows = read_manifest(out)
    found = list(adapters.extract(images, TINY, "random", options))
    assert sorted(item.index for item in found) == list(range(COUNT + 1))
    for item in found:
        row = rows[item.index]
        assert str(item.path) == row["path"]
        assert item.reason == row["reason"]
        if item.reason is None:
            tensors = load_file(out / row["file"])
            assert all(torch.equal(m, tensors[f"level{index}"]) for index, m in enumerate(item.maps))
            assert torch.equal(item.embedding, tensors["embedding"])
            assert [level.stride for level in item.levels] == row["strides"]


def test_python_takes_a_built_adapter(images: Path) -> None:
    backbone = adapters.create_adapter(**TINY, out_indices=(1, 2))
    image = next(images.glob("*.png"))
    (found,) = adapters.extract(image, backbone)
    assert [m.shape[0] for m in found.maps] == [level.channels for level in backbone.levels]
    with pytest.raises(ValueError, match="give the model's name"):
        next(adapters.extract(image, backbone, options=adapters.ExtractionOptions(outputs=("embedding",))))
