"""A training step of a detector and of a segmentor on a device, and the operators that serve in place of mmcv's."""

import time
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from torch import Tensor

from adapters.openmmlab.config_files import find_config
from adapters.openmmlab.config_tree import drop_pretrained
from adapters.openmmlab.run import register_scope
from lab.gpu.rows import Row, attempt
from lab.synthetic import make_batch

RECIPES = (
    "adapters::detection/retinanet_twins-svt-s_fpn_1x_coco",
    "adapters::detection/mask-rcnn_vit-medium-rope_prior-fpn_3x_coco",
    "adapters::segmentation/upernet_swinv2-cr-tiny_160k_ade20k-512x512",
)
OPERATOR_LIMIT = 1e-5


def check_training(device: torch.device, side: int) -> Iterator[Row]:
    """Take two steps of each recipe, with mixed precision on a GPU."""
    for recipe in RECIPES:
        yield attempt("training step", recipe.rpartition("/")[2], lambda r=recipe: take_steps(r, device, side))


def take_steps(recipe: str, device: torch.device, side: int) -> tuple[str, str]:
    """Return losses and the time of the second step in words; a problem, where a loss is not finite."""
    cfg = Config.fromfile(find_config(recipe))
    register_scope(cfg)
    MMLogger.get_current_instance().setLevel("ERROR")  # the optimiser's constructor logs a line for each parameter
    drop_pretrained(cfg.model)
    if cfg.default_scope == "mmseg":
        cfg.model.data_preprocessor.size = (side, side)
    torch.manual_seed(0)
    model = revert_sync_batchnorm(MODELS.build(cfg.model)).to(device).train()
    settings = {**cfg.optim_wrapper, "type": "AmpOptimWrapper" if device.type == "cuda" else "OptimWrapper"}
    wrapper = build_optim_wrapper(model, settings)
    losses: list[float] = []
    seconds = 0.0
    for _ in range(2):
        batch = make_batch(cfg.model, cfg.default_scope, side, training=True)
        start = time.perf_counter()
        losses.append(float(model.train_step(batch, wrapper)["loss"]))
        seconds = time.perf_counter() - start
    finite = all(map(torch.isfinite, torch.tensor(losses)))
    return f"loss {losses[0]:.2f}, {losses[1]:.2f}; {1000 * seconds:.0f} ms", "" if finite else "a loss is not finite"


def check_operators(device: torch.device, count: int | None = None) -> Iterator[Row]:
    """Run the cases of the tests with each operator on the CPU and on the device, and compare what it computes.

    Args:
        device: beside the CPU.
        count: of cases, where not all are wanted.
    """
    from operator_cases import CASES, OURS, run

    for name in list(CASES)[:count]:
        both = Both(OURS, device)
        yield attempt("operators", name, lambda name=name, both=both: both.compare(lambda: run(name, both.operators)))


class Both:
    """Operators that compute on the CPU what they are asked for, and the same on a device beside it.

    Args:
        operators: by name; a tensor among their arguments may be their result.
        device: beside the CPU.
    """

    def __init__(self, operators: SimpleNamespace, device: torch.device) -> None:
        self.device = device
        self.worst = 0.0
        self.operators = SimpleNamespace(**{name: self._both(one) for name, one in vars(operators).items()})

    def compare(self, use: Callable[[], object]) -> tuple[str, str]:
        """Return the largest difference in words; a problem, where it is beyond the limit."""
        use()
        return f"{self.worst:.1e}", "" if self.worst <= OPERATOR_LIMIT else "differs from the CPU"

    def _both(self, operator: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            there = [self._move(value) for value in arguments]
            options_there = {key: self._move(value) for key, value in options.items()}
            result_there = operator(*there, **options_there)
            result = operator(*arguments, **options)
            self._compare([*arguments, *options.values(), result], [*there, *options_there.values(), result_there])
            return result

        return call

    def _move(self, value: Any) -> Any:
        return value.detach().to(self.device, copy=True) if isinstance(value, Tensor) else value

    def _compare(self, here: Sequence[Any], there: Sequence[Any]) -> None:
        for one, other in zip(here, there, strict=True):
            if isinstance(one, Tensor) and one.numel():
                apart = (one.double() - other.double().cpu()).abs() / one.double().abs().clamp_min(1)
                self.worst = max(self.worst, apart.nan_to_num(torch.inf).max().item())
