"""Training without GPUs: the optimiser wrapper in bfloat16, mmcv's operators in fp32, norms of several processes."""

import pytest
import torch
from mmcv.ops import DeformConv2dPack, RoIAlign
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from torch import nn

from adapters.openmmlab.cpu_training import CpuAmpOptimWrapper, choose_precision, replace_sync_batch_norm


class Doubling(nn.Module):
    """A model for the optimiser's wrapper that remembers the precision in which it multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 1)
        self.seen: torch.dtype | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output = self.linear(x)
        self.seen = output.dtype
        return output.float().square().mean()


def test_gradients_accumulate_in_bfloat16_as_in_one_batch() -> None:
    torch.manual_seed(0)
    batch = torch.rand(6, 8)
    weights = []
    for count in (1, 3):
        torch.manual_seed(1)
        model = Doubling()
        options = {"type": CpuAmpOptimWrapper.__name__, "optimizer": {"type": "SGD", "lr": 0.5}}
        options |= {"accumulative_counts": count, "clip_grad": {"max_norm": 9}}
        wrapper = build_optim_wrapper(model, options)
        for part in batch.chunk(count):
            before = model.linear.weight.detach().clone()
            with wrapper.optim_context(model):
                loss = model(part)
            wrapper.update_params(loss)
        assert not torch.equal(before, model.linear.weight)  # the last part makes the step
        assert model.seen == torch.bfloat16
        assert model.linear.weight.dtype == torch.float32
        weights.append(model.linear.weight.detach())
    torch.testing.assert_close(weights[0], weights[1], rtol=2e-2, atol=2e-3)


def test_mmcv_operators_run_in_fp32_under_autocast() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)
            self.deform = DeformConv2dPack(4, 4, 3, padding=1)  # its own conv feeds its operator
            self.align = RoIAlign(2)

        def forward(self, image: torch.Tensor, fail: bool) -> torch.Tensor:
            pooled = self.align(
                self.deform(self.conv(image)), torch.tensor([[0, 0.0, 0.0, 4.0, 4.0, 9.0][: 4 if fail else 5]])
            )
            return self.conv(pooled[:, :3])

    model = Model()
    wrapper = CpuAmpOptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    with wrapper.optim_context(model):
        output = model(torch.rand(1, 3, 8, 8), fail=False)
    assert output.dtype == torch.bfloat16  # autocast is on again behind the operator
    with pytest.raises(AssertionError), wrapper.optim_context(model):
        model(torch.rand(1, 3, 8, 8), fail=True)
    assert not torch.is_autocast_enabled("cpu")
    assert torch.autocast_increment_nesting() == 1  # every context was left
    torch.autocast_decrement_nesting()
    assert not model.align._forward_pre_hooks
    assert not model.align._forward_hooks


def test_precision_is_that_of_the_device_and_of_the_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.openmmlab.cpu_training.get_device", lambda: "cpu")
    cfg = Config(dict(optim_wrapper=dict(type="AmpOptimWrapper", loss_scale="dynamic", dtype="float16")))
    assert "bfloat16 on the CPU" in choose_precision(cfg, amp=False)[0]
    assert cfg.optim_wrapper == dict(type="CpuAmpOptimWrapper")
    monkeypatch.setattr("adapters.openmmlab.cpu_training.get_device", lambda: "cuda")
    assert choose_precision(cfg, amp=False) == []
    assert cfg.optim_wrapper == dict(type="AmpOptimWrapper", loss_scale="dynamic", dtype="bfloat16")
    plain = Config(dict(optim_wrapper=dict(type="OptimWrapper")))
    assert choose_precision(plain, amp=False) == []
    assert plain.optim_wrapper == dict(type="OptimWrapper")


def test_synchronised_norms_become_ordinary_ones_wherever_they_stand() -> None:
    sync = dict(type="SyncBN", requires_grad=True)
    model = Config(
        dict(model=dict(neck=[dict(norm_cfg=sync)], head=dict(norm_cfg=sync, act_cfg=dict(type="ReLU"))))
    ).model
    assert replace_sync_batch_norm(model) == 2
    assert model.neck[0].norm_cfg == model.head.norm_cfg == dict(type="BN", requires_grad=True)
    assert model.head.act_cfg.type == "ReLU"
