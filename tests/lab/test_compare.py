"""Relative errors of maps and gradients, and which of them pass."""

import math

import pytest
import torch
from lab import compare


def test_relative_errors() -> None:
    one = torch.ones(4)
    assert compare.relative_error(one * 1.01, one) == pytest.approx(0.01)
    assert compare.map_errors([one], [one, one]) == [math.inf]
    assert compare.map_errors([one], [torch.ones(5)]) == [math.inf]
    assert compare.gradient_error({}, {}) is None
    assert not compare.is_within_tolerance(compare.map_errors([one * 0], [one * 0]), None, "fp32")
    assert compare.gradient_error({"a": one, "b": one}, {"a": one, "b": torch.ones(5), "c": one}) == 0
    assert compare.is_within_tolerance([5e-5], None, "fp32")
    assert not compare.is_within_tolerance([5e-5, 2e-4], None, "fp32")
    assert not compare.is_within_tolerance([math.nan], None, "fp32")
    assert not compare.is_within_tolerance([5e-5], 2e-3, "fp32")
    assert compare.is_within_tolerance([1e-2], 0.1, "bf16")
