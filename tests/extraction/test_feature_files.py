"""Feature files: the bytes of safetensors, the checksum, failures of values."""

import hashlib
from pathlib import Path

import torch
from safetensors.torch import load_file
from small_images import extract_tiny, read_all, tiny_extractor

from adapters.extraction.disk import write_file
from adapters.extraction.feature_files import safetensors_chunks
from adapters.extraction.inputs import find_images
from adapters.extraction.manifest import read_manifest
from adapters.extraction.run import run_extraction


def test_the_files_are_those_of_safetensors(tmp_path: Path) -> None:
    """Read by the library, of every type, and aligned."""
    tensors = {
        "level0": torch.randn(3, 5, 7),
        "level1": torch.randn(2, 3, 1).bfloat16(),
        "level2": torch.randn(4, 1, 3).half(),
        "top5_index": torch.arange(5),
    }
    path = tmp_path / "file.safetensors"
    write_file(path, *safetensors_chunks(tensors))
    loaded = load_file(path)
    assert set(loaded) == set(tensors)
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)
    assert (8 + int.from_bytes(path.read_bytes()[:8], "little")) % 8 == 0


def test_the_checksum_is_that_of_the_file(images: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "out"
    extract_tiny(images, out)
    assert read_all(out) == undisturbed
    for row in read_manifest(out):
        if row["file"]:
            assert hashlib.sha256((out / row["file"]).read_bytes()).hexdigest() == row["checksum"]


def test_values_that_are_not_finite_are_a_failure(images: Path, tmp_path: Path) -> None:
    extractor = tiny_extractor()
    with torch.no_grad():
        next(extractor.adapter.parameters()).fill_(torch.nan)
    summary = run_extraction(find_images([images]), extractor, tmp_path / "out", 0, progress=False)
    assert summary.done == 0
    assert "NaN or infinity in level0" in dict(summary.failures)[str(find_images([images])[0])]


def test_amp_keeps_bfloat16_on_the_cpu(images: Path, tmp_path: Path) -> None:
    extract_tiny(images, tmp_path / "out", amp=True)
    row = next(row for row in read_manifest(tmp_path / "out") if row["status"] == "ok")
    assert row["dtype"] == "bfloat16"
    assert load_file(tmp_path / "out" / row["file"])["level0"].dtype == torch.bfloat16
