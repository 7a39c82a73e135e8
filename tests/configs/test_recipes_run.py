"""Every recipe under configs/: it parses, builds, its neck fits the levels, and its optimiser takes its parameters. One
size of each: a step of its optimiser moves every parameter that trains, and it predicts."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
import small_recipes
import torch
from lab.synthetic import make_batch
from mmdet.evaluation.functional import INSTANCE_OFFSET
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from timm.layers import DropPath
from torch import Tensor, nn

from adapters import BackboneAdapter
from adapters.openmmlab.config_tree import children
from adapters.openmmlab.cpu_training import choose_precision
from adapters.openmmlab.fit import check_fit
from adapters.openmmlab.run import register_scope

#: SwinV2-CR's position network ends with a bias that shifts all scores of a head alike, which softmax ignores.
WITHOUT_EFFECT = "meta_mlp.fc2.bias"


def kind_of(path: Path) -> str:
    """The name of a recipe without the size of its model and the length of its schedule."""
    return re.sub(r"-(tiny|small|medium|betwixt|base|[tsbl])(?=[-_])|_[13]x", "", path.stem)


#: The smallest model of each kind, which is the last in the alphabet, trains a step; of the others no code is its own.
REPRESENTATIVES = {kind_of(path): path for path in small_recipes.RECIPES}
OTHERS = [path for path in small_recipes.RECIPES if path not in REPRESENTATIVES.values()]


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: path.stem)
def test_another_size_or_schedule_of_a_recipe(path: Path) -> None:
    cfg, trained = small_recipes.read(path), small_recipes.read(REPRESENTATIVES[kind_of(path)])
    register_scope(cfg)
    check_fit(cfg)
    for part in {*cfg.model, *trained.model} - {"backbone", "neck"}:
        assert type_names(cfg.model.get(part)) == type_names(trained.model.get(part))
    choose_precision(cfg, amp=False)
    with torch.device("meta"):
        optim_wrapper = build_optim_wrapper(MODELS.build(cfg.model), cfg.optim_wrapper)
    assert isinstance(optim_wrapper.optimizer, getattr(torch.optim, cfg.optim_wrapper.optimizer.type))


def type_names(node: Any) -> list[str]:
    own = [node["type"]] if isinstance(node, dict) and "type" in node else []
    return own + [name for child in children(node) for name in type_names(child)]


@pytest.mark.parametrize("path", REPRESENTATIVES.values(), ids=lambda path: path.stem)
def test_recipe(path: Path) -> None:
    cfg = small_recipes.read(path)
    register_scope(cfg)
    side = small_recipes.shrink(cfg)
    check_fit(cfg)
    model = build(cfg)
    assert_one_step_moves_what_trains(model, cfg, side)
    assert_predicts(model, cfg, side)


def build(cfg: Config) -> nn.Module:
    torch.manual_seed(0)
    for counter in ("iter", "epoch"):  # the Runner keeps them; some losses warm up by them
        MessageHub.get_current_instance().update_info(counter, 0)
    model = revert_sync_batchnorm(MODELS.build(cfg.model))  # as the Runner does for a single process
    model.init_weights()
    rates = [module.drop_prob for module in model.modules() if isinstance(module, DropPath)]
    assert max(rates, default=0.0) == pytest.approx(cfg.model.backbone.get("drop_path_rate", 0.0))
    return model


def assert_one_step_moves_what_trains(model: nn.Module, cfg: Config, side: int) -> None:
    leave_the_constants(model)
    for module in model.modules():
        if isinstance(module, DropPath):
            module.drop_prob = 0.0  # it would leave a block out for both images, and its parameters without a gradient
    cfg.optim_wrapper.optimizer.weight_decay = 0.0  # it moves parameters that have no gradient too
    choose_precision(cfg, amp=False)
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    model.train()
    losses = model.train_step(make_batch(cfg.model, cfg.default_scope, side, training=True), optim_wrapper)
    assert all(math.isfinite(value.item()) for name, value in losses.items() if "loss" in name), losses
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    trains = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert moved - trains == set()
    assert {name for name in trains - moved if not name.endswith(WITHOUT_EFFECT)} == set()
    assert_frozen_as_asked(model, cfg.model.backbone, trains)


def assert_frozen_as_asked(model: nn.Module, backbone: Any, trains: set[str]) -> None:
    (adapter,) = [module for module in model.modules() if isinstance(module, BackboneAdapter)]
    trunk = {f"backbone.trunk.{name}" for name, _ in adapter.trunk.named_parameters()}
    if "peft" in backbone:
        trunk = {name for name in trunk if "lora_" in name}
        assert trunk
    expected = set() if backbone.get("frozen_stages", -1) >= 0 else trunk
    assert {name for name in trains if name.startswith("backbone.trunk.")} == expected


def leave_the_constants(model: nn.Module) -> None:
    """Move every parameter that starts constant: a norm or layer scale of zero hides what lies behind it."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.min() == parameter.max():
                parameter.add_(torch.randn_like(parameter) * 0.02)


@torch.no_grad()
def assert_predicts(model: nn.Module, cfg: Config, side: int) -> None:
    model.eval()
    samples = model.test_step(make_batch(cfg.model, cfg.default_scope, side, training=False))
    assert len(samples) == 2
    for sample in samples:
        if cfg.default_scope == "mmseg":
            assert_semantic(sample.pred_sem_seg.data, sample.seg_logits.data, cfg.model.decode_head.num_classes, side)
        elif cfg.model.type == "PanopticFPN":
            assert_panoptic(sample.pred_panoptic_seg.sem_seg, cfg.model.panoptic_fusion_head, side)
        else:
            assert_instances(sample.pred_instances, cfg.model, side)


def assert_semantic(labels: Tensor, logits: Tensor, classes: int, side: int) -> None:
    assert labels.shape == (1, side, side)
    assert logits.shape == (classes, side, side)
    assert torch.isfinite(logits).all()
    assert torch.equal(labels[0], logits.argmax(dim=0))


def assert_panoptic(segments: Tensor, fusion: Any, side: int) -> None:
    assert segments.shape == (1, side, side)
    kinds = segments.unique() % INSTANCE_OFFSET
    assert (kinds <= fusion.num_things_classes + fusion.num_stuff_classes).all()  # one more: no segment


def assert_instances(instances: Any, model: Any, side: int) -> None:
    count = len(instances)
    limit = model.test_cfg.get("rcnn", model.test_cfg).max_per_img
    assert count <= limit
    assert instances.bboxes.shape == (count, 4)
    assert instances.scores.shape == instances.labels.shape == (count,)
    assert torch.isfinite(instances.bboxes).all()
    assert ((instances.scores >= 0) & (instances.scores <= 1)).all()
    head = model.bbox_head if "bbox_head" in model else model.roi_head.bbox_head
    assert ((instances.labels >= 0) & (instances.labels < head.num_classes)).all()
    if "roi_head" in model:
        assert instances.masks.shape == (count, side, side)
