"""The demonstration's verdict and its pictures, without a training."""

from pathlib import Path

import pytest
from lab.demo.command import PRETRAINED, RANDOM, TASKS, final_scores, score_table, shortcomings
from lab.demo.pictures import draw_curves
from PIL import Image

DETECTION = TASKS["detection"]
METRIC = next(iter(DETECTION.metrics))


def scores_of(pretrained: float, random: float) -> dict[str, dict[str, float]]:
    return {
        PRETRAINED: dict.fromkeys(DETECTION.metrics, pretrained),
        RANDOM: dict.fromkeys(DETECTION.metrics, random),
    }


@pytest.mark.parametrize(
    ("pretrained", "random", "wrong"),
    [(0.9, 0.2, []), (0.5, 0.2, ["below the floor"]), (0.9, 0.9, ["no more than the 0.900 from random weights"])],
)
def test_pretrained_weights_must_reach_the_floor_and_gain(pretrained: float, random: float, wrong: list[str]) -> None:
    found = shortcomings(DETECTION, scores_of(pretrained, random))
    assert len(found) == len(wrong)
    assert all(part in line for part, line in zip(wrong, found, strict=True))


def test_the_table_has_the_gain() -> None:
    table = score_table(DETECTION, scores_of(0.9, 0.25))
    cells = [next(iter(column.cells)) for column in table.columns]
    assert cells == ["box AP50", "0.900", "0.250", "+0.650"]
    single = score_table(TASKS["segmentation"], {RANDOM: dict.fromkeys(TASKS["segmentation"].metrics, 0.5)})
    assert [column.header for column in single.columns] == ["metric", RANDOM]


def test_the_last_validation_counts_and_one_that_finds_nothing_is_zero(tmp_path: Path) -> None:
    task = TASKS["segmentation"]
    records = [{"step": 1, "loss": 2.0}, *({"step": 2, **dict.fromkeys(task.metrics, score)} for score in (10.0, 50.0))]
    assert final_scores(task, records) == dict.fromkeys(task.metrics, 0.5)
    assert final_scores(task, records[:1]) == dict.fromkeys(task.metrics, 0.0)
    draw_curves({"a": records, "b": records[:1]}, "mIoU", "mIoU", 0.01, tmp_path / "curve.png")
    with Image.open(tmp_path / "curve.png") as picture:
        assert picture.width > 600
