"""Results that are kept in a file, and taken up again under the same conditions alone."""

from pathlib import Path

import pytest
from lab.results import Results


def test_results_are_kept_and_taken_up(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "results.json"
    added = Results(path, {"settings": {"size": (3, 4)}}).add("one", {"speed": 2.5, "size": (1, 2)})
    assert added == {"speed": 2.5, "size": [1, 2]}
    resumed = Results(path, {"settings": {"size": (3, 4)}})
    assert resumed.by_name == {"one": added}
    resumed.add("two", {})
    assert list(Results(path, {"settings": {"size": (3, 4)}}).by_name) == ["one", "two"]
    assert Results(path, {"settings": {"size": (3, 4)}}, resume=False).by_name == {}
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]


def test_results_of_other_conditions_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    Results(path, {"seed": 0}).add("one", {})
    with pytest.raises(ValueError, match=r"taken under {'seed': 0}, this run has {'seed': 1}.*Give another --out"):
        Results(path, {"seed": 1})


@pytest.mark.parametrize("text", ["[]", "{}", "3", "not json"])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="holds no results of this tool"):
        Results(path, {})
    assert path.read_text() == text
