"""The sweep over all algorithms: its page, and what it refuses; tests/openmmlab/fit/test_fit.py runs a part of it."""

from pathlib import Path

import pytest
from lab import sweep
from lab.synthetic import make_batch


def test_the_page_counts_what_runs_and_says_why_others_do_not() -> None:
    results = {
        "mmseg/b": {"config": "b/b_1x", "size": 64, sweep.OWN: sweep.OK, "vit": "no\n operator"},
        "mmdet/a": {"config": "a/a_1x", sweep.OWN: "AssertionError"},
    }
    page = sweep.render(results, {"torch": "2.11.0"}, ["vit"], total=3)
    assert "2 of 3 algorithms; the others are not measured yet." in page
    assert f"{sweep.OWN}: 1 of 2; vit: 0 of 2." in page
    assert "| `mmdet/a` | `a/a_1x` | no | no |\n| `mmseg/b` | `b/b_1x` | yes | no |" in page
    assert f"- `mmdet/a`, {sweep.OWN}: AssertionError\n- `mmseg/b`, vit: no operator\n" in page
    assert "Reasons" not in sweep.render({"mmdet/a": {"config": "a/a_1x", sweep.OWN: sweep.OK}}, {}, [], 1)


def test_an_unknown_algorithm_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no algorithm 'mmdet/ats'"):
        sweep.main(["--algorithms", "mmdet/ats", "--page", str(tmp_path / "page.md")])
    assert not list(tmp_path.iterdir())


def test_reasons_are_not_those_of_one_machine() -> None:
    reason = "no such file: '/work/a-1.2/b_c/d.py' (config.py:16), see https://a.io/b/c or mmdet/atss"
    assert sweep.without_folders(reason) == "no such file: 'd.py' (config.py:16), see https://a.io/b/c or mmdet/atss"


@pytest.mark.parametrize(("parts", "given"), [({"roi_head": {}}, True), ({"roi_head": {}, "rpn_head": {}}, False)])
def test_proposals_are_given_to_detectors_that_make_none(parts: dict[str, dict[str, str]], given: bool) -> None:
    batch = make_batch({"type": "FastRCNN", "num_classes": 3, **parts}, "mmdet", 64, training=False)
    assert ["proposals" in sample for sample in batch["data_samples"]] == [given, given]
