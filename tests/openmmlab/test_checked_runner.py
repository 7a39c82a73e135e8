"""The runner loads what was checked: resumed runs go on as if they had not stopped, and parts stay out."""

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.hooks import CheckpointHook
from mmengine.model import BaseModel
from torch import Tensor, nn
from torch.utils.data import DataLoader

from adapters.openmmlab.checked_runner import CheckedRunner

DATA = torch.randn(36, 4, generator=torch.Generator().manual_seed(0))


class Line(BaseModel):
    """A model of two layers, one of them the head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.backbone = nn.Linear(4, 3)
        self.head = nn.Linear(3, 1)

    def forward(self, inputs: Tensor, mode: str = "tensor") -> Any:
        loss = self.head(self.backbone(inputs)).square().mean()
        return {"loss": loss} if mode == "loss" else loss

    def train_step(self, data: Tensor, optim_wrapper: Any) -> dict[str, Tensor]:
        loss = self(data, mode="loss")["loss"]
        optim_wrapper.update_params(loss)
        return {"loss": loss}


def runner(folder: Path, steps: int, optimizer: str = "Adam", hooks: Any = (), **options: Any) -> CheckedRunner:
    settings = dict(type=optimizer, lr=0.1, **({"momentum": 0.9} if optimizer == "SGD" else {}))
    return CheckedRunner(
        Line(),
        work_dir=str(folder),
        train_dataloader=DataLoader(DATA, batch_size=6),
        train_cfg=dict(type="IterBasedTrainLoop", max_iters=steps),
        optim_wrapper=dict(optimizer=settings, **options.pop("wrapper", {})),
        default_hooks=dict(checkpoint=CheckpointHook(interval=1, by_epoch=False)),
        custom_hooks=list(hooks),
        experiment_name=f"{folder.name}-{steps}-{optimizer}-{len(options)}-{id(options)}",
        log_level="ERROR",
        **options,
    )


@pytest.mark.parametrize("hooks", [(), (dict(type="EMAHook"),)], ids=["plain", "averaged"])
def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(hooks: Any, tmp_path: Path) -> None:
    runner(tmp_path / "whole", 4, hooks=hooks).train()
    resumed = runner(tmp_path / "rest", 4, hooks=hooks, load_from=str(tmp_path / "whole/iter_2.pth"), resume=True)
    resumed.train()
    assert resumed.iter == 4
    whole, rest = (torch.load(tmp_path / name / "iter_4.pth", weights_only=False) for name in ("whole", "rest"))
    for kind in ("state_dict", "ema_state_dict") if hooks else ("state_dict",):
        assert whole[kind].keys() == rest[kind].keys()
        for key, value in whole[kind].items():
            torch.testing.assert_close(rest[kind][key], value)
    half = torch.load(tmp_path / "whole/iter_2.pth", weights_only=False)["state_dict"]
    assert not torch.equal(half["head.weight"], whole["state_dict"]["head.weight"])


def test_what_is_left_out_keeps_its_weights(tmp_path: Path) -> None:
    state = {f"module.{key}": torch.full_like(value, 7.0) for key, value in Line().state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "x.pth")
    start = runner(tmp_path, 1, load_from=str(tmp_path / "x.pth"))
    start.left_out = frozenset({"backbone.weight"})
    start.load_or_resume()
    assert (start.model.backbone.bias == 7).all()
    assert (start.model.head.weight == 7).all()
    assert torch.equal(start.model.backbone.weight, Line().backbone.weight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "SGD"}, r"its optimiser has the settings betas, and here momentum\. .*load_from="),
        (
            {"wrapper": dict(paramwise_cfg=dict(bias_lr_mult=2.0))},
            r"its optimiser has 1 groups of 4 parameters, and here 4 of 4\. .*paramwise_cfg",
        ),
    ],
    ids=["kind", "groups"],
)
def test_an_optimiser_of_another_run(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    runner(tmp_path / "first", 1).train()
    other = runner(tmp_path / "other", 2, load_from=str(tmp_path / "first/iter_1.pth"), resume=True, **options)
    with pytest.raises(ValueError, match=message):
        other.train()
