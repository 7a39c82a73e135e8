"""A library of ONNX that is missing is told with the command that installs it."""

import sys

import pytest

from adapters.export.libraries import WRITING, require


def test_a_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    says = r"writing needs onnxscript: install it with `pip install 'dense-adapters\[export\]'`, or write a .pt2 file"
    with pytest.raises(ModuleNotFoundError, match=says):
        require(WRITING, "writing")


def test_libraries_that_are_there() -> None:
    assert [module.__name__ for module in require(WRITING, "writing")] == list(WRITING)
