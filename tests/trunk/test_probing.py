"""Runs on tensors without data: what they hide, and what they must not."""

import logging
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapters.trunk.probing import everything_trainable, parameters_behind, probe


def run(forward: Callable[[nn.Module, Tensor], Tensor]) -> tuple[list[Tensor], list[str]]:
    """The outputs, and on which kind of device each pass ran."""
    devices: list[str] = []

    def counted(module: nn.Module, image: Tensor) -> list[Tensor]:
        devices.append("meta" if image.is_meta else "fake")
        return [forward(module, image)]

    return probe(nn.Conv2d(3, 4, 1), counted, (1, 3, 8, 10)), devices


def test_one_pass_is_enough_where_nothing_needs_data() -> None:
    (feature_map,), devices = run(lambda module, image: module(image))
    assert feature_map.shape == (1, 4, 8, 10)
    assert devices == ["meta"]


def test_tensors_that_a_model_makes_on_the_cpu_are_no_reason_to_fail() -> None:
    (feature_map,), devices = run(lambda module, image: module(image) * torch.ones(4, 8, 10))
    assert feature_map.shape == (1, 4, 8, 10)
    assert devices == ["meta", "fake"]


def test_what_fails_in_either_mode_is_raised() -> None:
    with pytest.raises(RuntimeError, match="negative dimension"):
        run(lambda module, image: module(image.new_zeros(1, 3, -1, 4)))


def test_a_mistake_of_the_code_is_raised_at_once() -> None:
    devices = []

    def forward(_: nn.Module, image: Tensor) -> Tensor:
        devices.append(image.device.type)
        raise KeyError("no such stage")

    with pytest.raises(KeyError, match="no such stage"):
        run(forward)
    assert devices == ["meta"]


def test_a_size_that_is_but_tried_leaves_nothing_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("torch._subclasses.fake_tensor")
    log.addHandler(caplog.handler)
    caplog.set_level(logging.WARNING, log.name)

    def shrink(_: nn.Module, image: Tensor) -> Tensor:
        return F.interpolate(image, size=(0, 0), mode="bicubic", antialias=True)

    try:
        with pytest.raises(RuntimeError, match="greater than 0"):
            run(shrink)
    finally:
        log.removeHandler(caplog.handler)
    assert caplog.records == []
    assert log.level == logging.WARNING


@pytest.mark.parametrize("offset", [0.0, torch.zeros(8, 10)], ids=["meta", "fake"])
def test_the_parameters_behind_a_map_are_those_of_the_model_itself(offset: float | Tensor) -> None:
    conv = nn.Conv2d(3, 4, 1)
    outputs = probe(conv, lambda copy, image: [F.conv2d(image, copy.weight) + offset], (1, 3, 8, 10))
    assert parameters_behind(outputs) == {id(conv.weight)}


@pytest.mark.parametrize("training", [False, True])
def test_the_mode_is_that_of_a_copy(training: bool) -> None:
    dropout = nn.Dropout().train(not training)
    modes = []
    probe(dropout, lambda copy, image: [modes.append(copy.training) or copy(image)], (1, 3), training=training)
    assert modes == [training]
    assert dropout.training is not training


def test_what_is_fixed_can_be_trained_for_a_while() -> None:
    module = nn.Linear(2, 2)
    module.bias.requires_grad_(False)
    module.count = nn.Parameter(torch.zeros(1, dtype=torch.long), requires_grad=False)
    with everything_trainable(module):
        assert [parameter.requires_grad for parameter in (module.weight, module.bias, module.count)] == [
            True,
            True,
            False,
        ]
    assert [parameter.requires_grad for parameter in (module.weight, module.bias)] == [True, False]
