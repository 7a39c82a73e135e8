"""The console of a run is without what no user can act on, and the log file has it."""

import io
import sys
import warnings
from pathlib import Path

import pytest
from mmengine.logging import MMLogger

from adapters.commands.quiet import quiet


def print_all() -> None:
    print("Could not import OneDL. Skipping OneDL datasets.")
    print("one")
    print("loading annotations into memory...\nDone (t=0.00s)")
    print()
    print("two")


def test_leaves_out_lines_that_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with quiet():
        print_all()
    assert capsys.readouterr().out == "one\n\ntwo\n"


def test_shows_all_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    with quiet(show_all=True):
        print_all()
    assert capsys.readouterr().out.splitlines()[0] == "Could not import OneDL. Skipping OneDL datasets."


def test_prints_to_another_stream_and_returns() -> None:
    stream, before = io.StringIO(), sys.stdout
    with quiet(stream):
        print_all()
    assert stream.getvalue() == "one\n\ntwo\n"
    assert sys.stdout is before


def test_the_log_file_has_what_the_console_has_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with quiet():
        logger = MMLogger("quiet", log_file=str(tmp_path / "run.log"))
        logger.info("Config:\nmodel = dict()\n")
        logger.info("paramwise_options -- a:lr=1")
        logger.info("Iter(train) [1/2]")
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith("Iter(train) [1/2]")
    assert "model = dict()" in (tmp_path / "run.log").read_text()


def test_leaves_out_warnings_of_packages_that_are_not_needed() -> None:
    with warnings.catch_warnings(record=True) as caught, quiet():
        warnings.warn("faster_coco_eval is not installed, metrics will not be computed.", stacklevel=1)
        warnings.warn("this model has no weights", stacklevel=1)
    assert [str(one.message) for one in caught] == ["this model has no weights"]
