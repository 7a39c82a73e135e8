"""The served operators beside mmcv's compiled ones: names, arguments, and what they compute, on the CPU."""

import inspect
import re

import pytest
import torch
from operator_cases import CASES, OURS, read_records, run
from torch import Tensor

from adapters.openmmlab.operators.extension import OPERATORS, lacking


@pytest.fixture(scope="module")
def records() -> dict[str, list[Tensor]]:
    return read_records()


def assert_equal(actual: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5, equal_nan=True)


@pytest.mark.parametrize("name", CASES)
def test_computes_as_recorded_of_the_compiled_operator(name: str, records: dict[str, list[Tensor]]) -> None:
    assert_equal(run(name, OURS), records[name])


@pytest.mark.compiled
@pytest.mark.parametrize("name", CASES)
def test_the_compiled_operator_computes_as_recorded(name: str, records: dict[str, list[Tensor]]) -> None:
    from mmcv import _ext

    assert_equal(run(name, _ext), records[name])


@pytest.mark.compiled
@pytest.mark.parametrize("name", OPERATORS)
def test_takes_the_arguments_of_the_compiled_operator(name: str) -> None:
    from mmcv import _ext

    signature = getattr(_ext, name).__doc__.splitlines()[0]
    assert list(inspect.signature(OPERATORS[name]).parameters) == re.findall(r"[(,] ?(\w+):", signature)


def test_another_operator_is_there_and_says_what_it_needs() -> None:
    operator = lacking("border_align_forward")
    with pytest.raises(NotImplementedError, match=r"'border_align_forward' is not served .* `make setup-compiled`"):
        operator(torch.zeros(1), pool_size=3)
    with pytest.raises(AttributeError, match="__path__"):
        lacking("__path__")
