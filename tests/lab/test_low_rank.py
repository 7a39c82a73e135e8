"""Measurements of low-rank tuning: a model of each kind is measured again, and the page shows what is in its table."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lab.low_rank import families, memory, transfer
from lab.low_rank.command import main
from lab.low_rank.page import HEADING, render
from PIL import Image

from adapters import TimmAdapter
from adapters.files import read_json

PAGE = Path(__file__).parents[2] / "docs" / "low_rank.md"
TABLE = read_json(PAGE.with_suffix(".json"), {})
#: Families of which each names its layers in another way, or has none of a kind.
KINDS = ("vision_transformer", "resnet", "levit")


@pytest.mark.parametrize("family", KINDS)
def test_a_family_is_as_the_table_says(family: str) -> None:
    row = TABLE["families"][family]
    cells = dict(families.measure(row["model"]))
    assert (cells["gradients"], cells["with_cp"], cells["base"]) == ("all", "all", "identical")
    assert float(cells.pop("merged")) < 1e-5
    assert cells == {column: row[column] for column in cells}


def test_the_page_shows_the_table() -> None:
    written = PAGE.read_text(encoding="utf-8")
    assert written[written.index(HEADING) :] == render(TABLE)


def test_what_is_wrong_is_in_the_row() -> None:
    adapter = TimmAdapter("resnet10t", peft=dict(targets="all"))
    adapter.trunk.bn1.weight.requires_grad_(True)
    adapter.trunk.unused = torch.nn.Linear(2, 2)
    assert families.train(adapter) == "2 of 25 without, such as trunk.unused.weight"


def test_steps_of_the_memory_measurement_run() -> None:
    small: dict[str, Any] = dict(model_name="vit_tiny_patch16_224", trunk=dict(depth=1))
    for peft in memory.SIDES.values():
        memory._train(small, peft, (32, 32), 1)


def test_each_half_hears_of_its_own_classes_alone(tmp_path: Path) -> None:
    data = transfer.prepare_data(transfer.Budget(images=(3, 1)), tmp_path / "shapes")
    for half, labels in transfer.HALVES.items():
        for path in (data / "annotations/train").iterdir():
            drawn = np.asarray(Image.open(path))
            ours = np.asarray(Image.open(data / f"annotations_{half}/train" / path.name))
            assert set(np.unique(ours[~np.isin(drawn, (0, *labels))])) <= {transfer.IGNORED}
            for new, label in enumerate((0, *labels)):
                assert (ours[drawn == label] == new).all()
    cfg = transfer.tuning_config("LoRA", transfer.Budget(images=(300, 40)), data, 1, Path("some.pth"))
    assert cfg.model.backbone.peft.type == "LoRA"
    assert cfg.train_dataloader.dataset.indices == 30
    assert cfg.train_dataloader.dataset.data_prefix.seg_map_path == "annotations_second/train"


def test_a_family_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no family tea; there are beit"):
        main(["families", "--families", "tea", "--results", str(tmp_path / "r.json")])
