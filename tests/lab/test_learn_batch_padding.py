"""tools/learn_batch_padding.py: configs that differ in their batches alone, and the table."""

import copy
from pathlib import Path

import pytest
from lab.learning.batch_padding import TASKS, Budget, make_config, rows
from lab.shapes import ShapesSettings, make_dataset
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, MODELS

from adapters.describe.tables import to_markdown
from adapters.openmmlab.fit import check_fit
from adapters.openmmlab.run import register_scope


@pytest.mark.parametrize("task", TASKS)
def test_the_cases_differ_in_their_batches_alone(task: str, tmp_path: Path) -> None:
    padded, exact = (make_config(task, case, Budget(iterations=7), 3, tmp_path) for case in ("padded", "exact"))
    register_scope(exact)
    check_fit(exact)
    assert type(MODELS.build(copy.deepcopy(exact.model))).__mro__[1].__name__ == "ExactBatches"
    assert (exact.train_cfg.max_iters, exact.randomness.seed) == (7, 3)
    assert (padded.model.backbone.pop("batch_padding"), exact.model.backbone.pop("batch_padding")) == (None, "exact")
    assert padded.to_dict() == exact.to_dict()


@pytest.mark.parametrize("task", TASKS)
def test_images_keep_the_size_that_they_were_drawn_at(task: str, tmp_path: Path) -> None:
    make_dataset(tmp_path, ShapesSettings(3, 3, size_range=(80, 96)))
    cfg = make_config(task, "exact", Budget(), 0, tmp_path)
    register_scope(cfg)
    prepare = MODELS.build(cfg.model.data_preprocessor)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        items = list(DATASETS.build(loader.dataset))
        assert prepare(pseudo_collate(items), training=True)["inputs"].shape[0] == 3
        for item in items:
            about = item["data_samples"].metainfo
            assert about["img_shape"] == about["ori_shape"] == tuple(item["inputs"].shape[1:])
            assert task == "segmentation" or about["scale_factor"] == (1, 1)  # asked for where boxes are predicted


def test_the_table_has_the_difference_between_batches_of_one_and_of_four() -> None:
    results = {
        "detection padded seed 0": {"1": 40.0, "4": 39.0},
        "detection padded seed 1": {"1": 42.0, "4": 42.5},
        "detection exact seed 0": {"1": 43.0, "4": 43.0},
        "segmentation padded seed 0": {"1": 70.0},
    }
    padded, exact, segmentor = rows(results)
    assert (padded["mean"], padded["by fours"], padded["largest difference"]) == (41.0, 40.75, 1.0)
    assert (exact["one by one"], exact["largest difference"]) == ("43.0", 0)
    assert (segmentor["one by one"], segmentor["by fours"]) == ("70.0", None)
    assert "| segmentation, mIoU | padded | 70.0 |" in to_markdown(rows(results))
    assert rows({}) == []
