"""Conversions to and from SyncBatchNorm leave what an adapter computes as it was, whoever converts."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from lab.randomise import randomise
from mmengine.model import ExponentialMovingAverage, convert_sync_batchnorm, revert_sync_batchnorm
from references import relative_error, timm_maps
from timm.layers import BatchNormAct2d, freeze_batch_norm_2d
from timm.layers.norm_act import SyncBatchNormAct
from torch import distributed, nn
from zoo import image

import adapters
from adapters.trunk.freezing import batch_norms

Convert = Callable[[nn.Module], nn.Module]
CONVERSIONS: dict[str, Convert] = {
    "torch": nn.SyncBatchNorm.convert_sync_batchnorm,
    "mmengine": convert_sync_batchnorm,
    "mmcv": lambda module: convert_sync_batchnorm(module, "mmcv"),
    "timm": timm.layers.convert_sync_batchnorm,
    "there and back": lambda module: revert_sync_batchnorm(convert_sync_batchnorm(module)),
    "there, back and there": lambda module: convert_sync_batchnorm(
        revert_sync_batchnorm(convert_sync_batchnorm(module, "mmcv"))
    ),
    "frozen": freeze_batch_norm_2d,
    "frozen afterwards": lambda module: freeze_batch_norm_2d(convert_sync_batchnorm(module)),
    "back and frozen": lambda module: freeze_batch_norm_2d(revert_sync_batchnorm(convert_sync_batchnorm(module))),
}
#: A small model for each place where timm's norm-acts stand.
FAMILIES = (
    "tinynet_e",
    "regnetx_002",
    "mobilenetv3_small_050",
    "darknet17",
    "mobilevit_xxs",
    "resnetv2_18",
    "starnet_s050",
)
SMALL = "tinynet_e"


@pytest.fixture
def one_process(tmp_path: Any) -> Any:
    """mmcv's SyncBatchNorm asks for the number of processes when it is built."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def build(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return randomise(adapters.TimmAdapter(name, **options)).eval()


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.usefixtures("one_process")
@torch.no_grad()
def test_a_converted_adapter_computes_what_timm_does(name: str) -> None:
    adapter = build(name)
    model = timm.create_model(name).eval()
    model.load_state_dict(adapter.trunk.state_dict(), strict=False)
    x = image(64, 64)
    expected = timm_maps(model, x, adapter.out_indices, norm=False)
    for kind in CONVERSIONS if name == SMALL else ("torch", "mmcv", "there and back"):
        converted = CONVERSIONS[kind](copy.deepcopy(adapter))
        assert converted.state_dict().keys() == adapter.state_dict().keys() or "frozen" in kind
        converted.eval()
        for actual, wanted in zip(converted(x), expected, strict=True):
            assert relative_error(actual, wanted) < 1e-4, kind


def test_it_stands_without_a_change_of_mode_and_in_training() -> None:
    adapter = build(SMALL)
    x = image(64, 64)
    converted = convert_sync_batchnorm(copy.deepcopy(adapter)).train()
    adapter.train()
    for actual, wanted in zip(converted(x), adapter(x), strict=True):
        assert torch.equal(actual, wanted)
    for key, tensor in converted.state_dict().items():
        assert torch.equal(tensor, adapter.state_dict()[key]), key  # running statistics, too


@torch.no_grad()
def test_a_trunk_and_a_part_of_it_can_be_converted_alone() -> None:
    adapter, x = build(SMALL), image(64, 64)
    expected = adapter(x)
    whole, part = copy.deepcopy(adapter), copy.deepcopy(adapter)
    nn.SyncBatchNorm.convert_sync_batchnorm(whole.trunk)
    part.trunk.blocks[2] = nn.SyncBatchNorm.convert_sync_batchnorm(part.trunk.blocks[2])
    for converted in (whole, part.eval()):
        for actual, wanted in zip(converted(x), expected, strict=True):
            assert torch.equal(actual, wanted)


@torch.no_grad()
def test_copies_pickles_and_averages_of_a_converted_adapter() -> None:
    adapter, x = convert_sync_batchnorm(build(SMALL)), image(64, 64)
    average = ExponentialMovingAverage(adapter, momentum=0.5)
    average.update_parameters(adapter)
    for twin in (copy.deepcopy(adapter), pickle.loads(pickle.dumps(adapter)), average.module):
        for actual, wanted in zip(twin.eval()(x), adapter.eval()(x), strict=True):
            assert torch.equal(actual, wanted)


def test_timms_own_classes_take_the_norms_places() -> None:
    """So that timm's functions know them; the activations are the very modules."""
    adapter = build(SMALL)
    act = adapter.trunk.bn1.act
    convert_sync_batchnorm(adapter)
    assert type(adapter.trunk.bn1) is SyncBatchNormAct
    assert adapter.trunk.bn1.act is act
    revert_sync_batchnorm(adapter)
    assert type(adapter.trunk.bn1) is BatchNormAct2d


@pytest.mark.parametrize("implementation", ["torch", "mmcv"])
@pytest.mark.usefixtures("one_process")
def test_frozen_stages_and_norm_eval_hold_for_converted_norms(implementation: str) -> None:
    adapter = convert_sync_batchnorm(build(SMALL, frozen_stages=1), implementation).train()
    assert not adapter.trunk.bn1.training
    assert not adapter.trunk.bn1.weight.requires_grad
    assert adapter.trunk.blocks[-1].training
    adapter = convert_sync_batchnorm(build(SMALL, norm_eval=True), implementation).train()
    norms = batch_norms(adapter.trunk)
    assert len(norms) > 10
    assert not any(norm.training for norm in norms)


def test_trunks_without_such_norms_are_left_alone() -> None:
    assert type(adapters.TimmAdapter("convnext_atto").trunk) is timm.models.ConvNeXt
