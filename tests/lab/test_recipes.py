"""`configs/README.md` says what the recipes say, and what their models cost."""

import dataclasses
from pathlib import Path

import pytest
import small_recipes
from lab import recipes as recipe_table
from mmengine.config import Config

REMEDY = "run `python tools/list_recipes.py`"
# One detector and one segmentor: counting all takes minutes, which is why the counts are kept.
COUNTED = ("detection/retinanet_twins-svt-s_fpn_1x_coco", "segmentation/upernet_swinv2-cr-tiny_2k_shapes")


def test_the_readme_is_what_the_tool_writes() -> None:
    counts = recipe_table.read_counts()
    assert sorted(counts) == sorted(path.stem for path in small_recipes.RECIPES), REMEDY
    stale = [
        path.stem
        for path in small_recipes.RECIPES
        if counts[path.stem].digest != recipe_table.digest(Config.fromfile(path))
    ]
    assert stale == [], REMEDY
    assert recipe_table.README.read_text() == recipe_table.render(counts), REMEDY


@pytest.mark.parametrize("name", COUNTED)
def test_the_counts_are_those_of_the_models(name: str) -> None:
    path = recipe_table.CONFIGS / f"{name}.py"
    assert recipe_table.count_recipe(Config.fromfile(path)) == recipe_table.read_counts()[path.stem]


def test_what_has_changed_is_counted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = recipe_table.read_counts()
    first, second = small_recipes.RECIPES[:2]
    wrong = dataclasses.replace(kept[first.stem], digest="old", parameters=1)
    monkeypatch.setattr(recipe_table, "COUNTS", tmp_path / "counts.json")
    monkeypatch.setattr(recipe_table, "read_counts", lambda: {first.stem: wrong, second.stem: kept[second.stem]})
    counted: list[str] = []

    def count(cfg: Config) -> recipe_table.RecipeCount:
        counted.append(Path(cfg.filename).stem)
        return kept[first.stem]

    monkeypatch.setattr(recipe_table, "count_recipe", count)
    assert recipe_table.update_counts([first, second]) == {path.stem: kept[path.stem] for path in (first, second)}
    assert counted == [first.stem]
    monkeypatch.undo()
    assert (tmp_path / "counts.json").read_text().count("digest") == 2


def test_figures_and_commands() -> None:
    rows = {
        line.split("]")[0][3:]: line for line in recipe_table.README.read_text().splitlines() if line.startswith("| [")
    }
    assert len(rows) == len(small_recipes.RECIPES)
    assert "| box AP 42.9, mask AP 40.0 |" in rows["mask-rcnn_twins-pcpvt-s_fpn_1x_coco"]
    assert (
        "`tools/dist_train.sh configs/detection/mask-rcnn_twins-pcpvt-s_fpn_1x_coco.py 8`"
        in (rows["mask-rcnn_twins-pcpvt-s_fpn_1x_coco"])
    )
    assert "| mIoU 46.2 |" in rows["upernet_twins-svt-s_160k_ade20k-512x512"]
    assert "| - |" in rows["mask-rcnn_twins-svt-l_fpn_3x_coco"]
    assert rows["mask-rcnn_vit-base-rope_vitdet_100e_coco-lsj"].endswith(".py 16` |")
    assert "`python tools/train.py configs/" in rows["fpn_swinv2-cr-tiny_2k_shapes"]
