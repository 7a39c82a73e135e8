"""The cells that one family has in the table for this package."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from adapters import TimmAdapter
from lab.coverage import checks
from lab.coverage.checks import SIZES, Size, outcome, require
from lab.coverage.reference import compare_with_timm
from lab.coverage.representatives import Representative
from lab.randomise import randomise

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = {
    "det step": ROOT / "configs/detection/retinanet_twins-svt-s_fpn_2k_shapes.py",
    "seg step": ROOT / "configs/segmentation/fpn_swinv2-cr-tiny_2k_shapes.py",
}
#: Side of the images of a step.
STEP_SIDE = 64


def all_sizes(one: Representative) -> list[Size]:
    """List the sizes of the table; the first is the model's own."""
    return [one.native, *SIZES]


def measure_ours(
    one: Representative, sizes: list[Size], steps: bool, compiled: bool = True
) -> Iterator[tuple[str, str]]:
    """Yield ``(column, outcome)`` for everything that an adapter promises.

    Args:
        one: the model.
        sizes: at which to run real images.
        steps: also take a step in a detector and in a segmentor, which needs mmdet and mmseg.
        compiled: also trace the model, which takes most of the time.
    """
    torch.manual_seed(0)
    name = one.model_name
    built: list[Any] = []
    answer = outcome(lambda: built.append(randomise(TimmAdapter(name), scale=checks.NOISE)))
    yield "build", answer
    if not built:
        return
    adapter = built[0]
    yield "levels", " ".join(f"{level.channels}/{level.stride}" for level in adapter.levels)
    for size in sizes:
        yield f"{size[0]}x{size[1]}", outcome(checks.check_size, adapter, size)
    for size in sizes:
        yield f"train {size[0]}x{size[1]}", outcome(checks.check_training_size, adapter, size)
    yield "gradient", outcome(checks.check_gradients, adapter)
    adapter.zero_grad()
    kinds: list[str] = []
    answer = outcome(lambda: kinds.append(compare_with_timm(adapter, name, one.native)))
    yield "reference", kinds[0] if kinds else answer
    if compiled:
        yield "compile", outcome(checks.check_compile, adapter)
    yield "with_cp", outcome(checks.check_checkpointing, name, adapter)
    yield "layer decay", outcome(check_layer_decay, adapter)
    yield "frozen", outcome(checks.check_frozen, name)
    yield "pyramid", outcome(check_pyramid, name, adapter)
    for column, config in CONFIGS.items() if steps else ():
        yield column, outcome(check_step, config, name)


def check_layer_decay(adapter: Any) -> None:
    """Require a layer of every parameter, the first of them 0, and several layers."""
    from adapters.trunk.layer_numbers import layer_numbers

    numbers, head = layer_numbers(adapter)
    names = {name for name, _ in adapter.named_parameters()}
    require(set(numbers) == names, f"{len(names - set(numbers))} parameters have no layer")
    require(min(numbers.values()) == 0, "no parameter is in layer 0")
    require(len(set(numbers.values())) >= 3, f"only {len(set(numbers.values()))} layers")
    in_head = [name for name, layer in numbers.items() if layer >= head and not name.startswith("pyramid.")]
    require(not in_head, f"{len(in_head)} parameters count as head, such as {in_head[:1]}")


def check_pyramid(name: str, adapter: Any) -> None:
    """Require a pyramid of four strides over a model of one stride, and at most four rising ones of others."""
    strides = [level.stride for level in adapter.levels]
    if len(set(strides)) == 1:
        adapter = TimmAdapter(name, pyramid={"type": "SimpleFeaturePyramid", "out_channels": 16})
        require([level.stride for level in adapter.levels] == [4, 8, 16, 32], f"strides {adapter.levels}")
        checks.check_size(adapter, checks.SMALL)
    else:
        require(strides == sorted(strides) and len(strides) <= 4, f"strides {strides}")


def check_step(config: Path, name: str) -> None:
    """Take the step of ``tools/train.py CONFIG --backbone NAME``: one optimisation step of the fitted config."""
    from mmengine.config import Config
    from mmengine.logging import MessageHub
    from mmengine.model import revert_sync_batchnorm
    from mmengine.optim import build_optim_wrapper
    from mmengine.registry import MODELS

    from adapters.openmmlab.fit import check_fit, fit_backbone
    from adapters.openmmlab.run import register_scope
    from lab.synthetic import make_batch

    torch.manual_seed(0)
    cfg = Config.fromfile(config)
    register_scope(cfg)
    fit_backbone(cfg, name, weights=None)
    check_fit(cfg)
    for counter in ("iter", "epoch"):
        MessageHub.get_current_instance().update_info(counter, 0)
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    model.init_weights()
    model.train()
    optimizer = build_optim_wrapper(model, {"optimizer": {"type": "SGD", "lr": 0.01}})
    if cfg.default_scope == "mmseg":
        model.data_preprocessor.size = (STEP_SIDE, STEP_SIDE)
        model.data_preprocessor.size_divisor = None
    before = {key: p.detach().clone() for key, p in model.backbone.named_parameters()}
    reached: set[str] = set()
    for key, parameter in model.backbone.named_parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda _, key=key: reached.add(key))
    batch = make_batch(cfg.model, cfg.default_scope, STEP_SIDE, training=True)
    losses = model.train_step(batch, optimizer)
    total = float(losses["loss"])
    require(math.isfinite(total), f"the loss is {total}")
    without = [key for key, p in model.backbone.named_parameters() if p.requires_grad and key not in reached]
    require(not without, f"no gradient for {len(without)} parameters of the backbone, such as {without[:1]}")
    moved = sum(not torch.equal(p, before[key]) for key, p in model.backbone.named_parameters())
    require(moved > 0, "the step moved no parameter of the backbone")
