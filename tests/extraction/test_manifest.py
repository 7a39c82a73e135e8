"""The manifest of a run, and the features that it names, are what the adapter gives."""

from pathlib import Path

import numpy as np
import pyarrow.parquet
import torch
from PIL import Image
from safetensors.torch import load_file
from small_images import COUNT, extract_tiny, tiny_extractor

from adapters.extraction.inputs import find_images


def test_files_and_manifest_hold_what_the_adapter_gives(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = extract_tiny(images, out, outputs=("pyramid", "embedding", "top5"))
    paths = find_images([images])
    assert (summary.total, summary.done, summary.new) == (COUNT + 1, COUNT, COUNT)
    ((broken, reason),) = summary.failures
    assert broken.endswith("broken.jpg")
    assert "Pillow" in reason
    rows = pyarrow.parquet.read_table(out / "manifest.parquet").to_pylist()
    assert [row["path"] for row in rows] == [str(path) for path in paths]
    assert len({row["file"] for row in rows if row["file"]}) == COUNT
    extractor = tiny_extractor(outputs=("pyramid", "embedding", "top5"))
    for row in rows:
        if row["status"] == "failed":
            continue
        with Image.open(row["path"]) as image:
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        assert (row["original_height"], row["original_width"]) == tuple(pixels.shape[1:])
        assert (row["fed_height"], row["fed_width"]) == tuple(pixels.shape[1:])
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        with torch.no_grad():
            maps, final = extractor.adapter.forward_with_head(((pixels - mean) / std)[None])
            logits = extractor.adapter.trunk.forward_head(final)[0]
            embedding = extractor.adapter.trunk.forward_head(final, pre_logits=True)[0]
        tensors = load_file(out / row["file"])
        assert set(tensors) == {"level0", "level1", "level2", "level3", "embedding", "top5_index", "top5_probability"}
        for index, feature_map in enumerate(maps):
            torch.testing.assert_close(tensors[f"level{index}"], feature_map[0], rtol=1e-4, atol=1e-4)
        assert row["strides"] == [level.stride for level in extractor.levels]
        assert row["channels"] == [feature_map.shape[1] for feature_map in maps]
        torch.testing.assert_close(tensors["embedding"], embedding, rtol=1e-4, atol=1e-4)
        best = logits.softmax(0).topk(5)
        assert row["top5_index"] == best.indices.tolist()
        torch.testing.assert_close(torch.tensor(row["top5_probability"]), best.values, rtol=1e-4, atol=1e-4)
        assert row["top5_class"][0]
        assert row["dtype"] == "float32"
        assert row["bytes"] == (out / row["file"]).stat().st_size
