"""Folders of ``torch.distributed.checkpoint``, written by torch, read here without process groups."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import metadata as dcp_metadata
from torch.distributed.checkpoint.filesystem import _StorageInfo

from adapters.weights.download import fetch_contents

pytestmark = pytest.mark.filterwarnings("ignore")
STATE = {
    "conv.weight": torch.randn(4, 3),
    "conv.half": torch.randn(5).half(),
    "count": torch.tensor(3),
    "view": torch.arange(9.0).view(3, 3)[1:],
}


def assert_same(found: dict[str, Any]) -> None:
    assert found.keys() == STATE.keys()
    assert all(found[key].dtype == tensor.dtype and torch.equal(found[key], tensor) for key, tensor in STATE.items())


def test_what_torch_writes(tmp_path: Path) -> None:
    optimizer = {"state": {0: {"exp_avg": torch.ones(2)}}, "lr": 0.1}
    dcp.save({"model": STATE, "optimizer": optimizer, "epoch": 3}, checkpoint_id=str(tmp_path), no_dist=True)
    contents = fetch_contents(str(tmp_path))
    assert_same(contents["model"])
    assert contents.title("f") == "f (1 tensors of the optimiser were not read)"


def test_names_without_a_container(tmp_path: Path) -> None:
    dcp.save({f"model.{key}": tensor for key, tensor in STATE.items()}, checkpoint_id=str(tmp_path), no_dist=True)
    assert_same({key.removeprefix("model."): tensor for key, tensor in fetch_contents(str(tmp_path)).items()})


def shards(folder: Path, **change: Any) -> None:
    """Write a 4 x 3 tensor in two parts, as two processes do."""
    whole = torch.arange(12.0).view(4, 3)
    chunks, places = [], {}
    for rank, rows in enumerate((slice(0, 3), slice(3, 4))):
        offsets, part = torch.Size([rows.start, 0]), whole[rows].clone()
        name = f"__{rank}_0.distcp"
        with (folder / name).open("wb") as file:
            file.write(b"xy")  # A part need not lie at the beginning.
            torch.save(part, file)
            length = file.tell() - 2
        chunks.append(dcp_metadata.ChunkStorageMetadata(offsets, part.shape))
        fields = {"relative_path": name, "offset": 2, "length": length, **(change if rank else {})}
        places[dcp_metadata.MetadataIndex("w", offsets)] = _StorageInfo(**fields)
    properties = dcp_metadata.TensorProperties(torch.float32)
    described = dcp_metadata.TensorStorageMetadata(properties, torch.Size([4, 3]), chunks)
    metadata = dcp_metadata.Metadata({"w": described}, storage_data=places)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


def test_a_tensor_in_parts(tmp_path: Path) -> None:
    shards(tmp_path)
    assert torch.equal(fetch_contents(str(tmp_path))["w"], torch.arange(12.0).view(4, 3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"relative_path": "../__1_0.distcp"}, "a part of w lies outside of the folder"),
        ({"relative_path": "__7_0.distcp"}, r"__7_0\.distcp, with a part of w, is missing"),
        ({"relative_path": "__0_0.distcp"}, "a part of w has another place than the metadata say"),
        ({"length": 40}, r"cannot be read as a folder of torch\.distributed\.checkpoint"),
        ({"transform_descriptors": ["zstd"]}, "w is compressed"),
    ],
)
def test_parts_that_do_not_fit(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    shards(tmp_path, **change)
    with pytest.raises(ValueError, match=message) as caught:
        fetch_contents(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_metadata_with_code_in_them_are_refused(tmp_path: Path) -> None:
    (tmp_path / ".metadata").write_bytes(b"cposix\nsystem\n(X\x04\x00\x00\x00exittR.")
    with pytest.raises(ValueError, match=r"cannot be read.*posix\.system"):
        fetch_contents(str(tmp_path))
