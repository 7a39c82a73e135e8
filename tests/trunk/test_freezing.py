"""Frozen stages and frozen norms as mmdet's and mmseg's own backbones have them: no gradient, eval mode, no update."""

import copy
from collections.abc import Iterator

import pytest
import torch
from mmengine.model import BaseModule, convert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from torch import Tensor, nn
from zoo import ZOO, Spec, image, randomise

import adapters
from adapters import BackboneAdapter
from adapters.trunk.freezing import batch_norms

RESNET = next(spec for spec in ZOO if spec.name == "resnet")
TWINS = next(spec for spec in ZOO if spec.name == "twins_svt_dense")


def stem_of(adapter: BackboneAdapter) -> list[nn.Module]:
    """The modules that every family's stem has, by the names that timm gives them."""
    trunk = adapter.trunk
    names = ("patch_embed", "stem", "conv1", "bn1", "norm_pre")
    modules = [trunk.get_submodule(name) for name in names if hasattr(trunk, name)]
    return modules + ([trunk.patch_embeds[0]] if hasattr(trunk, "patch_embeds") else [])


def frozen_names(adapter: BackboneAdapter) -> set[str]:
    return {name for name, parameter in adapter.named_parameters() if not parameter.requires_grad}


def held_by(adapter: BackboneAdapter, modules: list[nn.Module]) -> set[str]:
    held = {id(parameter) for module in modules for parameter in module.parameters()}
    return {name for name, parameter in adapter.named_parameters() if id(parameter) in held}


def modules_without_training(adapter: BackboneAdapter, names: set[str]) -> Iterator[nn.Module]:
    """The modules all of whose parameters are among the names."""
    for prefix, module in adapter.trunk.named_modules(prefix="trunk"):
        held = {f"{prefix}.{name}" for name, _ in module.named_parameters()}
        if held and held <= names:
            yield from module.modules()


def step(adapter: BackboneAdapter, optimizer: torch.optim.Optimizer, side: int = 32) -> None:
    optimizer.zero_grad()
    sum(feature_map.square().mean() for feature_map in adapter(image(side, side))).backward()
    optimizer.step()


@pytest.mark.parametrize("spec", ZOO, ids=str)
def test_every_part_of_every_family_can_be_frozen(spec: Spec) -> None:
    """0 is the stem; each further part adds one stage or block, in order, and the last one is everything."""
    adapter = spec.build().train()
    assert not frozen_names(adapter)
    assert all(module.training for module in adapter.modules())
    parts = adapter.part_names()
    trunk = [name for name, _ in adapter.named_parameters() if not name.startswith("pyramid.")]
    assert sorted(name for part in parts for name in part) == sorted(trunk)
    if len({level.stride for level in adapter.stage_levels}) == 1:
        assert len(parts) == len(adapter.trunk.blocks) + 1
    for frozen_stages in (0, 1, len(parts) - 1):
        adapter = spec.build(frozen_stages=frozen_stages).train()
        frozen = frozen_names(adapter)
        assert frozen == {name for part in parts[: frozen_stages + 1] for name in part}
        if frozen_stages == 0:
            assert held_by(adapter, stem_of(adapter)) <= frozen
            assert not any(".blocks." in name or ".layer1." in name for name in frozen)
        still = list(modules_without_training(adapter, frozen))
        assert still
        assert not any(module.training for module in still)


@pytest.mark.parametrize("spec", ZOO, ids=str)
def test_frozen_parts_have_no_gradient_and_do_not_move(spec: Spec) -> None:
    """Under weight decay and momentum, with mmengine's optimiser wrapper, batch norm statistics among them."""
    adapter = spec.build(frozen_stages=1).train()
    frozen = frozen_names(adapter)
    assert frozen
    assert len(frozen) < len(list(adapter.parameters()))
    wrapper = build_optim_wrapper(
        adapter, {"type": "OptimWrapper", "optimizer": {"type": "SGD", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}}
    )
    before = copy.deepcopy(adapter.state_dict())
    step(adapter, wrapper.optimizer)
    still = {name.rpartition(".")[0] for name in frozen}
    moved = {name for name, tensor in adapter.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved
    assert not {name for name in moved if name in frozen or name.rpartition(".")[0] in still}
    parameters = dict(adapter.named_parameters())
    assert all(parameters[name].grad is None for name in frozen)
    assert not any(parameters[name] in wrapper.optimizer.state for name in frozen)
    assert moved >= {name for name in parameters if name not in frozen}


def test_a_paramwise_optimiser_leaves_them_out() -> None:
    adapter = TWINS.build(frozen_stages=1)
    wrapper = build_optim_wrapper(
        adapter,
        {
            "type": "OptimWrapper",
            "optimizer": {"type": "AdamW", "lr": 0.1, "weight_decay": 0.1},
            "paramwise_cfg": {"norm_decay_mult": 0.0},
        },
    )
    inside = {id(parameter) for group in wrapper.optimizer.param_groups for parameter in group["params"]}
    assert inside == {id(parameter) for parameter in adapter.parameters() if parameter.requires_grad}


def test_all_frozen_but_the_pyramid_trains() -> None:
    spec = next(spec for spec in ZOO if spec.name == "convit_pyramid")
    adapter = spec.build(frozen_stages=5).train()
    assert {name.split(".")[0] for name in frozen_names(adapter)} == {"trunk"}
    assert adapter.training
    assert adapter.pyramid is not None
    assert all(module.training for module in adapter.pyramid.modules())
    step(adapter, torch.optim.SGD(adapter.parameters(), lr=0.1))
    assert all(parameter.grad is not None for parameter in adapter.pyramid.parameters())


def test_norms_after_frozen_stages_are_frozen() -> None:
    adapter = TWINS.build(frozen_stages=2)
    assert [norm.weight.requires_grad for norm in adapter.stage_norms] == [False, False, True, True]


def test_eval_mode_comes_back_however_the_model_is_switched() -> None:
    adapter = RESNET.build(frozen_stages=1)
    detector = nn.ModuleDict({"backbone": adapter, "head": nn.Conv2d(1, 1, 1)})
    for switch in (detector.train, lambda: detector.eval().train(), lambda: copy.deepcopy(detector).train()):
        switched = switch()["backbone"]
        assert not switched.trunk.bn1.training
        assert not any(module.training for module in switched.trunk.layer1.modules())
        assert all(module.training for module in switched.trunk.layer2.modules())
    assert not any(module.training for module in detector.eval().modules())


def test_eval_mode_holds_from_the_start() -> None:
    adapter = adapters.TimmAdapter(RESNET.model_name, frozen_stages=0, norm_eval=True, **RESNET.options)
    assert adapter.trunk.layer4.training
    assert not adapter.trunk.bn1.training
    assert not any(norm.training for norm in batch_norms(adapter.trunk))


def test_batch_norms_that_were_exchanged_stay_frozen() -> None:
    """mmengine's ``sync_bn`` puts other modules in the places of the batch norms."""

    class Detector(BaseModule):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = RESNET.build(frozen_stages=0)

    detector = convert_sync_batchnorm(Detector()).train()
    trunk = detector.backbone.trunk
    assert isinstance(trunk.bn1, nn.SyncBatchNorm)
    assert not trunk.bn1.training
    assert trunk.layer1[0].bn1.training


def statistics(adapter: BackboneAdapter) -> list[Tensor]:
    return [norm.running_mean.clone() for norm in batch_norms(adapter.trunk)]


@pytest.mark.parametrize("norm_eval", [False, True])
def test_norm_eval_keeps_statistics_and_trains_scales(norm_eval: bool) -> None:
    adapter = RESNET.build(norm_eval=norm_eval).train()
    assert [norm.training for norm in batch_norms(adapter.trunk)] == [not norm_eval] * len(statistics(adapter))
    before = statistics(adapter)
    step(adapter, torch.optim.SGD(adapter.parameters(), lr=0.1))
    unchanged = [torch.equal(old, new) for old, new in zip(before, statistics(adapter), strict=True)]
    assert unchanged == [norm_eval] * len(before)
    assert all(norm.weight.grad is not None for norm in batch_norms(adapter.trunk))
    assert adapter.trunk.layer1.training


def test_dropouts_after_a_frozen_embedding_are_still() -> None:
    spec = next(spec for spec in ZOO if spec.name == "vit")
    trunk = {**spec.options["trunk"], "pos_drop_rate": 0.5}
    vit = adapters.TimmAdapter(spec.model_name, trunk=trunk, frozen_stages=0).train()
    assert not vit.trunk.pos_drop.training
    trunk = {**TWINS.options["trunk"], "pos_drop_rate": 0.5}
    twins = adapters.TimmAdapter(TWINS.model_name, trunk=trunk, frozen_stages=2).train()
    assert [drop.training for drop in twins.trunk.pos_drops] == [False, False, True, True]


def test_what_surrounds_the_stem_is_frozen_with_it() -> None:
    """timm's groups put a norm before the blocks with the last one, and register tokens nowhere."""
    clip = adapters.TimmAdapter("vit_base_patch16_clip_224", trunk={"depth": 2, "embed_dim": 24, "num_heads": 2})
    names = clip.part_names()
    assert {"trunk.norm_pre.weight", "trunk.norm_pre.bias", "trunk.cls_token"} <= set(names[0])
    assert len(names) == 3
    assert sorted(name for part in names for name in part) == sorted(name for name, _ in clip.named_parameters())


@pytest.mark.parametrize("frozen_stages", [5, 99])
def test_more_than_there_is(frozen_stages: int) -> None:
    with pytest.raises(ValueError, match=rf"frozen_stages={frozen_stages}, but twins_svt_small .* a stem and 4 stages"):
        TWINS.build(frozen_stages=frozen_stages)


def test_frozen_parts_of_models_without_a_matcher() -> None:
    adapter = randomise(adapters.TimmAdapter("poolformerv2_s12", frozen_stages=1))
    frozen = {name for name, parameter in adapter.named_parameters() if not parameter.requires_grad}
    assert frozen
    assert all(name.startswith(("trunk.stem.", "trunk.stages.0.")) for name in frozen)
