"""Data that a config names and that do not exist are found, with the setting and the remedy."""

from pathlib import Path

import pytest

from adapters.openmmlab import data_check
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


def test_a_dataset_of_shapes_is_drawn_where_the_script_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clone has the script, an installed package has not."""
    dataset = {"data_root": f"{tmp_path}/shapes/", "metainfo": {"classes": sorted(data_check.SHAPES)}}
    loaders = {"train_dataloader": {"dataset": dataset}}
    clone = data_check.SHAPES_SCRIPT.parents[1]
    for folder, script in ((clone, "tools/make_shapes.py"), (tmp_path, f"{clone}/tools/make_shapes.py")):
        monkeypatch.chdir(folder)
        with pytest.raises(FileNotFoundError) as caught:
            check_dataset(loaders)
        assert str(caught.value).endswith(f"Draw the dataset with `python {script} --out {tmp_path}/shapes`.")
    monkeypatch.setattr(data_check, "SHAPES_SCRIPT", tmp_path / "site-packages" / "tools" / "make_shapes.py")
    with pytest.raises(FileNotFoundError, match="A clone of dense-adapters draws this dataset") as caught:
        check_dataset(loaders)
    assert "--cfg-options train_dataloader.dataset.data_root=PATH" in str(caught.value)
