"""Data that a config names and that do not exist are found, with the setting and the remedy."""

from pathlib import Path

import pytest

from adapters.openmmlab.data_check import check_dataset


def test_datasets_inside_wrappers_are_checked(tmp_path: Path) -> None:
    (tmp_path / "coco").mkdir()
    inner = {"type": "CocoDataset", "data_root": str(tmp_path / "coco"), "ann_file": "annotations/train.json"}
    wrapped = {"type": "RepeatDataset", "dataset": {"type": "ConcatDataset", "datasets": [inner]}}
    with pytest.raises(FileNotFoundError) as caught:
        check_dataset({"train_dataloader": {"dataset": wrapped}, "val_dataloader": None})
    where = "train_dataloader.dataset.dataset.datasets[0]"
    assert f"{tmp_path}/coco/annotations/train.json does not exist" in str(caught.value)
    assert f"as {where}.ann_file" in str(caught.value)
    assert f"--cfg-options {where}.data_root=PATH" in str(caught.value)
    assert "make_shapes" not in str(caught.value)


def test_remote_roots_and_other_loaders_are_passed_over(tmp_path: Path) -> None:
    remote = {"dataset": {"data_root": "s3://bucket/coco/", "ann_file": "train.json"}}
    absent = {"dataset": {"data_root": str(tmp_path / "absent")}}
    check_dataset({"train_dataloader": remote, "test_dataloader": absent}, loaders=("train_dataloader",))
    with pytest.raises(FileNotFoundError, match=r"test_dataloader\.dataset\.data_root"):
        check_dataset({"train_dataloader": remote, "test_dataloader": absent})
