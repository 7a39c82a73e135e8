"""The table of timm's families: one of each kind is measured again; how it is measured, kept, rendered and read."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from lab.coverage import run as running
from lab.coverage.checks import (
    WrongError,
    check_checkpointing,
    check_gradients,
    check_maps,
    outcome,
    require_close,
)
from lab.coverage.measure import measure_ours
from lab.coverage.records import render_records
from lab.coverage.reference import check_rounding
from lab.coverage.report import CHECKS, judge, render, totals
from lab.coverage.representatives import Representative, choose, representatives
from torch import nn

import adapters
from adapters import listing
from adapters.files import read_json, write_json
from adapters.trunk.build import timm_module_name

PAGE = Path(__file__).parents[2] / "docs" / "coverage.md"
TABLE = read_json(PAGE.with_suffix(".json"))
SIZES = [(97, 65)]
#: Families of which each takes another way through the package; most others of timm's share theirs with one of these,
#: and LeViT, PiT, CrossViT and SwinV2-CR are in the zoo.
FAMILIES = {
    "twins": "TwinsAdapter",
    "vision_transformer": "VisionTransformerAdapter, a pyramid over one stride",
    "convit": "ConViTAdapter, right beside timm for squares alone",
    "tiny_vit": "the generic adapter of a model that takes any size, as 40 families are",
    "densenet": "timm's reentrant recomputation",
    "hrnet": "recomputation of ours, through blocks that take lists of maps",
    "metaformer": "timm groups no parameters into layers",
    "rdnet": "timm groups parameters into stages alone",
    "efficientvim": "single parameters are removed",
    "xception": "margins, since convolutions without padding lose cells",
    "mobilevit": "timm builds it for one size, with a switch",
    "efficientformer": "the same, right beside timm at the native size alone",
    "mlp_mixer": "a refusal",
}


def representative(family: str) -> Representative:
    row = TABLE["families"][family]
    return Representative(family, row["model"], row["parameters"], tuple(row["native"]))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_does_what_the_table_says(family: str) -> None:
    claimed = TABLE["families"][family]["adapters"]
    for column, cell in measure_ours(representative(family), SIZES, steps=False):
        if column == "levels" or judge(claimed[column]):
            assert cell == claimed[column], column
        else:
            assert not judge(cell), f"{column} works: measure {family} again"


def test_the_page_is_that_of_the_table() -> None:
    assert PAGE.read_text() == render(TABLE, read_json(PAGE.with_name("export_measured.json")))
    assert TABLE["timm"] == timm.__version__
    assert len(TABLE["families"]) == len({timm_module_name(n) for n in real_models()})


def real_models() -> list[str]:
    return timm.list_models(exclude_filters="test_*")


def row(name: str, **cells: str) -> dict[str, Any]:
    ours = {"build": "ok", "levels": "8/4", "seconds": "3", **dict.fromkeys(CHECKS, "ok"), "reference": "built"}
    for size in ("224x224", "256x320", "250x333", "97x65", "800x1344"):
        ours |= {size: "ok", f"train {size}": "ok"}
    peer = {"build": "ok", "224x224": "ok", "256x320": "a map is (1, 8, 8) | <wrong>"}
    return {
        "model": name,
        "parameters": 2_500_000,
        "native": [224, 224],
        "adapters": {**ours, **cells},
        "timm": peer,
        "mmseg": {"build": "KeyError: 'x'"},
    }


def test_a_page_counts_marks_and_gives_reasons() -> None:
    refused = {**row("cube"), "adapters": {"build": "ValueError: a cube | is <no> plane", "seconds": "1"}}
    table = {"timm": "1", "torch": "2", "families": {"plain": row("p"), "wrong": row("w", frozen="x"), "cube": refused}}
    counts = totals(table["families"])
    assert counts["adapters"]["97 x 65"] == 2
    assert counts["adapters"]["frozen"] == 1
    assert counts["timm"]["native"] == 3
    assert counts["timm"]["256 x 320"] == 0
    assert counts["mmseg"]["native"] == 0
    page = render(table)
    assert "Of 3 families 2 serve as backbones; `cube` cannot" in page
    assert "**cube**, build: ValueError: a cube \\| is &lt;no> plane" in page
    assert "**wrong**, frozen: x" in page
    assert "| native | 2 | 3 | 0 |" in page
    (line,) = (line for line in page.splitlines() if line.startswith("| plain "))
    assert line.count(" yes ") == 14
    assert line.endswith("| 1/5 | 0/5 |")


def test_a_measurement_goes_on_where_it_stopped(tmp_path: Path) -> None:
    models = [Representative(name, f"{name}_tiny", 5, (224, 224)) for name in ("a", "b", "c")]
    measured = tmp_path / "measured"

    def subject(one: Representative) -> Iterator[tuple[str, str]]:
        with measured.open("a") as file:
            file.write(one.family)
        yield "build", "ok"

    subjects, results = {"adapters": subject}, tmp_path / "results.json"
    running.run(models[:2], results, subjects, 10)
    assert running.run(models, results, subjects, 10, stop_after=0)["families"]["c"].keys() == {
        "model",
        "parameters",
        "native",
    }
    table = running.run(models, results, subjects, 10, jobs=2)
    assert measured.read_text() == "abc"
    assert read_json(results) == table
    assert table["families"]["c"]["adapters"]["build"] == "ok"
    running.run(models, results, subjects, 10, again=["b"])
    running.run([Representative("a", "a_nano", 4, (224, 224))], results, subjects, 10)
    assert measured.read_text() == "abcba"
    write_json(results, {**table, "timm": "0.1"})
    assert set(running.run(models[:1], results, subjects, 10)["families"]) == {"a"}


def test_the_smallest_model_stands_for_its_family(tmp_path: Path) -> None:
    names = ["resnet34", "resnet18", "twins_svt_small"]
    chosen = choose(names)
    assert [(one.family, one.model_name, one.native) for one in chosen] == [
        ("resnet", "resnet18", (224, 224)),
        ("twins", "twins_svt_small", (224, 224)),
    ]
    assert chosen[0].parameters == sum(p.numel() for p in timm.create_model("resnet18").parameters())
    write_json(tmp_path / "known.json", {"timm": timm.__version__, "models": [vars(one) for one in chosen]})
    assert representatives(tmp_path / "known.json") == chosen


class Wrong(nn.Module):
    """Two levels, of which the checks are to find what is wrong."""

    levels = (adapters.Level(3, 1),)

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (self.used(image),)


def test_checks_can_fail() -> None:
    wrong = Wrong()
    assert "2 of 4 parameters without gradient" in outcome(check_gradients, wrong)
    image = torch.zeros(1, 3, 5, 7)
    levels = [adapters.Level(3, 2)]
    check_maps([torch.zeros(1, 3, 3, 4)], levels, image)
    for maps in ([], [torch.zeros(1, 3, 2, 4)], [torch.zeros(1, 3, 4, 3)], [torch.zeros(1, 3, 3, 4).double()]):
        with pytest.raises(WrongError):
            check_maps(maps, levels, image)
    with pytest.raises(WrongError, match=r"differs by 1\.0e-02"):
        require_close([torch.full((3,), 1.01)], [torch.ones(3)])
    assert outcome(int, "x") == "ValueError: invalid literal for int() with base 10: 'x'"


def test_checkpointing_that_recomputes_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    keeping = adapters.TimmAdapter("resnet10t", out_indices=(1, 2))
    build = adapters.TimmAdapter
    kept = {"out_indices": (1, 2)}

    def build_with(use: bool) -> Any:
        return lambda name, **_: build(name, with_cp=use, **kept)

    for use, expected in ((True, "ok"), (False, "nothing is recomputed")):
        monkeypatch.setattr("lab.coverage.checks.TimmAdapter", build_with(use))
        assert outcome(check_checkpointing, "resnet10t", keeping) == expected


def test_records_name_every_model_in_a_line_of_its_own() -> None:
    text = listing.RECORDS.read_text()
    records = json.loads(text)
    assert records["timm"] == timm.__version__
    assert list(records["models"]) == sorted(timm.list_models())
    assert text == render_records(records)
    assert len(text.splitlines()) == len(records["models"]) + 2
    for found in records["models"].values():
        assert set(found) in ({"levels"}, {"refused"})


@pytest.mark.parametrize("name", ["twins_svt_small", "swin_tiny_patch4_window7_224", "hrnet_w18_small", "gmlp_s16_224"])
def test_records_are_what_building_gives(name: str) -> None:
    assert listing.record(name) == listing.make_record(name)


def test_rounding_is_told_from_a_mistake() -> None:
    """Equal in float64, and no further from it in float32 than twice what timm's own model is."""
    exact = [torch.ones(3, dtype=torch.float64)]
    near, far, wrong = ([torch.full((3,), value)] for value in (1.0002, 1.0003, 1.0005))
    check_rounding(far, near, exact, exact)
    with pytest.raises(WrongError, match=r"differs by 5\.0e-04 from float64, where timm's own rounding is 2\.0e-04"):
        check_rounding(wrong, near, exact, exact)
    with pytest.raises(WrongError, match=r"differs by 1\.0e-05"):
        check_rounding(near, near, [exact[0] * 1.00001], exact)
