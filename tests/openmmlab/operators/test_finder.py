"""The stand-in of mmcv._ext is found where nothing else is, and says so once."""

import importlib
import importlib.util
import sys
from unittest import mock

import pytest

from adapters.openmmlab.operators import finder
from adapters.openmmlab.operators.extension import OPERATORS


def test_is_asked_last_and_once() -> None:
    finder.serve_operators()
    ours = [one for one in sys.meta_path if isinstance(one, finder.OperatorFinder)]
    assert len(ours) == 1
    assert sys.meta_path.index(ours[0]) > sys.meta_path.index(importlib.machinery.PathFinder)


def test_finds_one_module_alone() -> None:
    assert finder.OperatorFinder().find_spec("mmcv.ops", None) is None


def test_the_module_has_the_operators_and_a_line_in_the_log() -> None:
    spec = finder.OperatorFinder().find_spec(finder.EXTENSION, None)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    with mock.patch("mmengine.logging.print_log") as log:
        spec.loader.exec_module(module)
    assert log.call_count == 1
    assert "no compiled operators" in log.call_args.args[0]
    assert module.nms is OPERATORS["nms"]
    with pytest.raises(NotImplementedError, match="'tin_shift_forward'"):
        module.tin_shift_forward()
    assert not hasattr(module, "__file__")


@pytest.mark.compiled
def test_compiled_operators_win() -> None:
    assert hasattr(importlib.import_module(finder.EXTENSION), "__file__")
