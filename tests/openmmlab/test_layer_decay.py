"""Layer-wise learning-rate decay: the groups beside timm's own and mmseg's, in detectors and segmentors."""

import re
from typing import Any

import pytest
import timm
import torch
from mmdet.utils import register_all_modules as register_mmdet
from mmengine.config import ConfigDict
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import MODELS, OPTIM_WRAPPER_CONSTRUCTORS, DefaultScope
from mmseg.utils import register_all_modules as register_mmseg
from timm.optim import param_groups_layer_decay
from torch import nn
from zoo import TOKENS, TWINS, ZOO, Spec, randomise

import adapters
from adapters.openmmlab.layer_decay import TimmLayerDecayConstructor, format_groups
from adapters.trunk.layer_numbers import layer_numbers

each_spec = pytest.mark.parametrize("spec", ZOO, ids=str)
LR, DECAY, RATE = 0.01, 0.1, 0.5


def build(model: nn.Module, wrapper: dict[str, Any] | None = None, **paramwise: Any) -> OptimWrapper:
    """The optimiser that a config gets: AdamW, unless ``wrapper`` says otherwise."""
    cfg = {
        "type": "OptimWrapper",
        "optimizer": {"type": "AdamW", "lr": LR, "weight_decay": DECAY},
        "constructor": "TimmLayerDecayConstructor",
        "paramwise_cfg": {"decay_rate": RATE, **paramwise},
        **(wrapper or {}),
    }
    return build_optim_wrapper(model, ConfigDict(cfg))


def settings(model: nn.Module, **paramwise: Any) -> dict[str, tuple[float, float]]:
    """``(lr, weight_decay)`` of each parameter that our constructor gives."""
    return settings_of(build(model, **paramwise), model)


def settings_of(wrapper: OptimWrapper, model: nn.Module) -> dict[str, tuple[float, float]]:
    """``(lr, weight_decay)`` of each parameter by name; every one must be in one group."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {}
    for group in wrapper.optimizer.param_groups:
        for parameter in group["params"]:
            assert names[id(parameter)] not in found
            found[names[id(parameter)]] = (group["lr"], group["weight_decay"])
    return found


def of_timm(model: nn.Module, **arguments: Any) -> dict[str, tuple[float, float]]:
    """``(lr, weight_decay)`` of each parameter as timm's own function has them."""
    groups = param_groups_layer_decay(
        model,
        weight_decay=DECAY,
        layer_decay=RATE,
        no_weight_decay_list=getattr(model, "no_weight_decay", set)(),
        **arguments,
    )
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(p)]: (pytest.approx(LR * group["lr_scale"]), group["weight_decay"])
        for group in groups
        for p in group["params"]
    }


class Model(nn.Module):
    """A backbone under that name, and something new after it."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(2, 2)


@each_spec
def test_the_trunk_has_the_groups_of_timm(spec: Spec) -> None:
    """timm's own function on the same trunk with a head, which timm puts a layer above the last block."""
    adapter = spec.build()
    ours = settings(Model(adapter), flat_decay_mult=0.0)
    adapter.trunk.head_of_the_test = nn.Linear(2, 2)
    reference = of_timm(adapter.trunk)
    better_placed = {name for name in reference if name.startswith(("fc_norm.", "rope.", "norm_pre.", "reg_token"))}
    for name, expected in reference.items():
        if name not in better_placed and not name.startswith("head_of_the_test"):
            assert ours[f"backbone.trunk.{name}"] == expected, name
    assert all(
        ours[f"backbone.pyramid.{name}"][0] == LR for name, _ in (adapter.pyramid or nn.Module()).named_parameters()
    )
    assert ours["head.weight"] == (LR, DECAY)
    assert ours["head.bias"] == (LR, 0.0)
    assert len({lr for lr, _ in ours.values()}) > 3


@pytest.mark.parametrize(
    "spec", [s for s in ZOO if s.name in ("twins_svt", "swinv2_cr", "vit", "dinov3", "convit")], ids=str
)
def test_an_unpruned_trunk_has_the_rates_of_the_full_timm_model(spec: Spec) -> None:
    adapter = spec.build()
    full = of_timm(timm.create_model(spec.model_name, num_classes=7, **spec.options["trunk"]))
    ours = settings(adapter, flat_decay_mult=0.0)
    kept = [name for name, _ in adapter.trunk.named_parameters()]
    assert len(kept) > 20
    assert {name: ours[f"trunk.{name}"] for name in kept} == {name: full[name] for name in kept}


def test_a_vit_decays_as_in_vitdet() -> None:
    """``rate ** (num_layers + 1 - layer)``: 0 the embeddings, ``i + 1`` block i, the rest at the full rate."""
    adapter = adapters.TimmAdapter("vit_small_patch16_224", trunk=TOKENS, pyramid={"type": "SimpleFeaturePyramid"})
    ours = settings(Model(adapter))
    depth = TOKENS["depth"]
    for name, (lr, _) in ours.items():
        if name.startswith("backbone.trunk.blocks."):
            layer = int(name.split(".")[3]) + 1
        elif name.startswith("backbone.trunk."):
            assert any(part in name for part in ("patch_embed", "pos_embed", "cls_token"))
            layer = 0
        else:
            layer = depth + 1
        assert lr == pytest.approx(LR * RATE ** (depth + 1 - layer)), name


def test_mmseg_has_the_same_rates_for_its_own_vit() -> None:
    """mmseg's constructor on its own MAE backbone, where it knows the layers."""
    register_mmseg(init_default_scope=False)
    with DefaultScope.overwrite_default_scope("mmseg"):
        native = Model(
            MODELS.build({"type": "MAE", "img_size": (32, 32), "embed_dims": 48, "num_layers": 4, "num_heads": 4})
        )
        cfg = {
            "type": "OptimWrapper",
            "optimizer": {"type": "AdamW", "lr": LR, "weight_decay": DECAY},
            "constructor": "LearningRateDecayOptimizerConstructor",
            "paramwise_cfg": {"num_layers": 4, "decay_rate": RATE, "decay_type": "layer_wise"},
        }
        theirs = settings_of(build_optim_wrapper(native, ConfigDict(cfg)), native)
    adapter = adapters.TimmAdapter("vit_small_patch16_224", trunk=TOKENS)
    ours = settings(Model(adapter), flat_decay_mult=0.0)
    pairs = {f"backbone.layers.{i}.attn.qkv.weight": f"backbone.trunk.blocks.{i}.attn.qkv.weight" for i in range(4)}
    pairs |= {f"backbone.layers.{i}.ln1.weight": f"backbone.trunk.blocks.{i}.norm1.weight" for i in range(4)}
    pairs |= {
        "backbone.patch_embed.projection.weight": "backbone.trunk.patch_embed.proj.weight",
        "backbone.patch_embed.projection.bias": "backbone.trunk.patch_embed.proj.bias",
        "head.weight": "head.weight",
        "head.bias": "head.bias",
    }
    for native_name, name in pairs.items():
        assert ours[name] == pytest.approx(theirs[native_name]), name
    # The class token gets no weight decay there either (its own rule for that), and the rate of the stem.
    assert ours["backbone.trunk.cls_token"] == pytest.approx((theirs["backbone.cls_token"][0], 0.0))


def tiny(scope: str) -> nn.Module:
    """A detector or segmentor with an FPN on a small Twins, every parameter randomised."""
    register = {"mmdet": register_mmdet, "mmseg": register_mmseg}[scope]
    register(init_default_scope=False)
    backbone = {"type": "TimmAdapter", "model_name": "twins_svt_small", "trunk": TWINS, "stage_norm": True}
    neck = {"type": "FPN", "in_channels": TWINS["embed_dims"], "out_channels": 16, "num_outs": 4}
    head = {
        "mmdet": {
            "type": "RetinaNet",
            "bbox_head": {
                "type": "RetinaSepBNHead",  # its convolutions are held once by each of four levels
                "num_ins": 4,
                "num_classes": 3,
                "in_channels": 16,
                "feat_channels": 16,
                "stacked_convs": 1,
                "anchor_generator": {
                    "type": "AnchorGenerator",
                    "ratios": [1.0],
                    "scales": [4],
                    "strides": [4, 8, 16, 32],
                },
            },
        },
        "mmseg": {
            "type": "EncoderDecoder",
            "decode_head": {
                "type": "FPNHead",
                "in_channels": [16] * 4,
                "in_index": [0, 1, 2, 3],
                "feature_strides": [4, 8, 16, 32],
                "channels": 16,
                "dropout_ratio": 0.0,
                "num_classes": 3,
            },
            "test_cfg": {"mode": "whole"},
        },
    }[scope]
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(scope):
        return randomise(MODELS.build({"backbone": backbone, "neck": neck, **head}))


@pytest.mark.parametrize("amp", [False, True], ids=["fp32", "amp"])
@pytest.mark.parametrize("scope", ["mmdet", "mmseg"])
def test_a_step_of_accumulated_gradients_moves_each_layer_by_its_rate(scope: str, amp: bool) -> None:
    """With plain SGD a step is the learning rate times the mean gradient."""
    model = tiny(scope)
    wrapper = build(
        model,
        {
            "type": "CpuAmpOptimWrapper" if amp else "OptimWrapper",
            "optimizer": {"type": "SGD", "lr": LR},
            "accumulative_counts": 2,
        },
    )
    wrapper.initialize_count_status(model, 0, 2)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for seed in (1, 2):
        image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(seed))
        with wrapper.optim_context(model):
            outputs = torch.utils._pytree.tree_flatten(model(image, mode="tensor"))[0]
            loss = sum(output.float().square().mean() for output in outputs)
        wrapper.update_params(loss)
        moved = [name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])]
        assert bool(moved) == (seed == 2)  # only the second call steps
    numbers, head = layer_numbers(model.backbone)
    gradients = {}
    for name, parameter in model.named_parameters():
        inner = name.removeprefix("backbone.")
        scale = RATE ** (head - numbers[inner]) if name.startswith("backbone.") else 1.0
        gradients[name] = (before[name] - parameter.detach()) / (LR * scale)
    plain = tiny(scope)
    for seed in (1, 2):
        image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(seed))
        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
            outputs = torch.utils._pytree.tree_flatten(plain(image, mode="tensor"))[0]
            (sum(output.float().square().mean() for output in outputs) / 2).backward()
    for name, parameter in plain.named_parameters():
        # A step loses the digits that lie below those of the parameter.
        torch.testing.assert_close(
            gradients[name], parameter.grad, rtol=1e-2, atol=2e-2 if amp else 5e-3, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_norms_and_biases_as_the_config_says() -> None:
    model = tiny("mmseg")
    ours = settings(model, norm_decay_mult=0.0, bias_decay_mult=0.5)
    assert ours["backbone.trunk.blocks.0.0.norm1.weight"][1] == 0.0
    assert ours["backbone.trunk.blocks.0.0.attn.qkv.bias"][1] == pytest.approx(0.5 * DECAY)
    assert ours["backbone.trunk.blocks.0.0.attn.qkv.weight"][1] == DECAY
    assert ours["backbone.trunk.pos_block.0.proj.0.weight"][1] == 0.0  # timm's no_weight_decay
    assert ours["backbone.stage_norms.0.weight"][1] == 0.0
    assert ours["neck.lateral_convs.0.conv.bias"] == (LR, pytest.approx(0.5 * DECAY))


def test_custom_keys() -> None:
    """A lr_mult multiplies the layer's rate; a decay_mult comes before timm's no_weight_decay."""
    model = tiny("mmseg")
    keys = {
        "pos_block.1": {"decay_mult": 2.0},
        "backbone.trunk.blocks.3": {"lr_mult": 0.1},
        "decode_head": {"lr_mult": 3.0},
    }
    ours = settings(model, custom_keys=keys)
    plain = settings(model)
    assert ours["backbone.trunk.pos_block.0.proj.0.weight"][1] == 0.0
    assert ours["backbone.trunk.pos_block.1.proj.0.weight"][1] == pytest.approx(2 * DECAY)
    name = "backbone.trunk.blocks.3.1.mlp.fc1.weight"
    assert ours[name][0] == pytest.approx(0.1 * plain[name][0]) == pytest.approx(0.1 * LR * RATE)
    assert ours["decode_head.conv_seg.weight"][0] == pytest.approx(3 * LR)


def test_frozen_stages_are_left_out() -> None:
    adapter = adapters.TimmAdapter("twins_svt_small", trunk=TWINS, frozen_stages=1)
    ours = settings(Model(adapter))
    trained = {f"backbone.{name}" for name, parameter in adapter.named_parameters() if parameter.requires_grad}
    assert {name for name in ours if name.startswith("backbone.")} == trained
    assert ours["backbone.trunk.blocks.3.1.mlp.fc1.weight"][0] == pytest.approx(LR * RATE)


def test_two_backbones_decay_each_by_its_own_layers() -> None:
    model = Model(adapters.TimmAdapter("twins_svt_small", trunk=TWINS))
    model.teacher = nn.Sequential(adapters.TimmAdapter("vit_small_patch16_224", trunk=TOKENS))
    ours = settings(model)
    assert ours["backbone.trunk.patch_embeds.0.proj.weight"][0] == pytest.approx(LR * RATE**9)
    assert ours["teacher.0.trunk.patch_embed.proj.weight"][0] == pytest.approx(LR * RATE**5)


def test_groups_are_few_and_in_order() -> None:
    model = tiny("mmdet")
    wrapper = build(model, norm_decay_mult=0.0)
    groups = wrapper.optimizer.param_groups
    assert len(groups) == len({(group["lr"], group["weight_decay"]) for group in groups}) == 2 * 9 + 1
    rates = [group["lr"] for group in groups]
    assert rates == sorted(rates)


def test_print_groups(capsys: pytest.CaptureFixture) -> None:
    model = tiny("mmseg")
    MMLogger.get_instance("layer_decay_test")  # writes to the captured output, since it is made here
    build(model, norm_decay_mult=0.0, print_groups=True)
    logged = capsys.readouterr().out
    constructor = OPTIM_WRAPPER_CONSTRUCTORS.build(
        {
            "type": "TimmLayerDecayConstructor",
            "optim_wrapper_cfg": {"optimizer": {"type": "AdamW", "lr": LR, "weight_decay": DECAY}},
            "paramwise_cfg": {"decay_rate": RATE, "norm_decay_mult": 0.0},
        }
    )
    assert isinstance(constructor, TimmLayerDecayConstructor)
    constructor(model)
    table = format_groups(constructor.groups)
    assert table in logged
    assert sum(group.parameters for group in constructor.groups) == sum(p.numel() for p in model.parameters())
    for line in (
        r"^ +0 +0\.00195 +1\.95e-05 +0\.1 +[\d,]+ +backbone\.trunk\.patch_embeds\.0$",
        r"^ +3 +0\.0156 +0\.000156 +0\.1 .* backbone\.trunk\.patch_embeds\.1, backbone\.trunk\.blocks\.1\.0$",
        r"^ +- +1 +0\.01 +0\.1 .* neck, decode_head$",
    ):
        assert any(re.search(line, row) for row in table.splitlines()), (line, table)


@pytest.mark.parametrize(
    ("paramwise", "message"),
    [
        ({}, r"needs decay_rate above 0 and at most 1, got None: 0.7 for a ViT-B"),
        ({"decay_rate": 1.5}, r"at most 1, got 1.5"),
        ({"decay_rate": 0}, r"above 0 and at most 1, got 0"),
        ({"decay_rate": 0.7, "num_layers": 12}, r"no key 'num_layers': timm's model says how many layers"),
        ({"decay_rate": 0.7, "norm_decay": 0.0}, r"no key 'norm_decay': did you mean 'norm_decay_mult'\?"),
        ({"layer_decay_rate": 0.7}, r"no key 'layer_decay_rate'"),
        ({"decay_rate": 0.7, "colour": 1}, r"no key 'colour': it takes decay_rate, print_groups, custom_keys"),
    ],
)
def test_errors_in_paramwise_cfg(paramwise: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TimmLayerDecayConstructor({"optimizer": {"type": "SGD", "lr": LR}}, paramwise)


def test_errors_of_the_optimiser_and_the_model() -> None:
    with pytest.raises(ValueError, match=r"has no lr: set it"):
        TimmLayerDecayConstructor({"optimizer": {"type": "AdamW"}}, {"decay_rate": 0.7})
    with pytest.raises(
        ValueError, match=r"found no timm backbone in Linear: use it with backbone=dict\(type='TimmAdapter'"
    ):
        build(nn.Linear(2, 2))
