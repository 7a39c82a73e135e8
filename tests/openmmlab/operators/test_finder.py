"""The stand-in of mmcv._ext is found where nothing else is, and says so once."""

import importlib
import importlib.util
import sys
from collections import OrderedDict
from types import ModuleType

import pytest
from mmengine.logging import MMLogger

from adapters.openmmlab.operators import finder
from adapters.openmmlab.operators.extension import OPERATORS


def test_is_asked_last_and_once() -> None:
    finder.serve_operators()
    ours = [one for one in sys.meta_path if isinstance(one, finder.OperatorFinder)]
    assert len(ours) == 1
    assert sys.meta_path.index(ours[0]) > sys.meta_path.index(importlib.machinery.PathFinder)


def test_finds_one_module_alone() -> None:
    assert finder.OperatorFinder().find_spec("mmcv.ops", None) is None


def load_stand_in() -> ModuleType:
    spec = finder.OperatorFinder().find_spec(finder.EXTENSION, None)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_module_has_the_operators() -> None:
    module = load_stand_in()
    assert module.nms is OPERATORS["nms"]
    with pytest.raises(NotImplementedError, match="'tin_shift_forward'"):
        module.tin_shift_forward()


def test_tells_itself_from_what_was_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, finder.EXTENSION, load_stand_in())
    assert finder.are_served()
    monkeypatch.setitem(sys.modules, finder.EXTENSION, importlib.import_module("json"))
    assert not finder.are_served()
    monkeypatch.delitem(sys.modules, finder.EXTENSION)
    assert not finder.are_served()


def test_a_run_that_has_begun_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(MMLogger, "_instance_dict", OrderedDict())
    load_stand_in()
    assert capsys.readouterr().out == ""
    MMLogger.get_instance("run")
    load_stand_in()
    assert finder.NOTE in capsys.readouterr().out


@pytest.mark.compiled
def test_compiled_operators_win() -> None:
    assert hasattr(importlib.import_module(finder.EXTENSION), "__file__")
