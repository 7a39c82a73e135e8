"""Measurements in processes of their own: what is found is kept, however the process ends."""

import os
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from lab.child import ENDED, collect
from tqdm import tqdm


def good() -> Iterator[tuple[str, str]]:
    yield "one", "ok"
    yield "two", "ok"


def raising() -> Iterator[tuple[str, str]]:
    yield "one", "ok"
    raise KeyError("lost")


def dying() -> Iterator[tuple[str, str]]:
    yield "one", "ok"
    os._exit(7)


def hanging() -> Iterator[tuple[str, str]]:
    yield "one", "ok"
    time.sleep(60)


@pytest.mark.parametrize(
    ("measure", "ended"),
    [
        (good, ""),
        (raising, r"KeyError: 'lost' \(test_child\.py:\d+\)"),
        (dying, "the process died, exit code 7"),
        (hanging, "no answer within 1 s"),
    ],
)
def test_a_process_of_its_own_gives_what_it_has_found(measure: Any, ended: str) -> None:
    cells = collect(measure, 1)
    assert cells["one"] == "ok"
    assert re.fullmatch(ended, cells.get(ENDED, ""))
    assert ("two" in cells) == (measure is good)


def drawing_a_bar() -> Iterator[tuple[str, str]]:
    yield "steps", str(sum(1 for _ in tqdm([1, 2])))


def test_a_bar_can_be_drawn_in_it_while_one_is_drawn_here() -> None:
    with tqdm.get_lock():
        assert collect(drawing_a_bar, 5)["steps"] == "2"
