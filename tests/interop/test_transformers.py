"""Adapters in transformers: heads build them from a config, train, and come back from a file as they went into it."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from lab.frameworks import steps
from lab.randomise import randomise
from safetensors.torch import load_file, save_file
from transformers import AutoBackbone, AutoConfig, AutoModel, DetrForObjectDetection
from zoo import MORE, PYRAMID, ZOO, image

from adapters import BackboneAdapter
from adapters.interop.transformers import TimmAdapterBackbone, TimmAdapterConfig, load_weights

SPECS = {spec.name: spec for spec in (*ZOO, *MORE)}
STRIDES = [4, 8, 16, 32]


def config(name: str, **more: Any) -> TimmAdapterConfig:
    """The config of one of the zoo's adapters."""
    spec = SPECS[name]
    options = {key: value for key, value in spec.options.items() if key != "out_indices"}
    return TimmAdapterConfig(model_name=spec.model_name, options=options, **more)


def maps_of(backbone: TimmAdapterBackbone, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        return backbone.eval()(x).feature_maps


def test_the_maps_are_the_adapters_and_named_by_stage() -> None:
    backbone = AutoBackbone.from_config(config("resnet", out_indices=[2, -1]))
    assert isinstance(backbone, TimmAdapterBackbone)
    assert backbone.stage_names == ["stage1", "stage2", "stage3", "stage4", "stage5"]
    assert (backbone.out_indices, backbone.out_features) == ([2, 4], ["stage3", "stage5"])
    assert backbone.channels == [32, 64]
    x = image(97, 65)
    maps = maps_of(backbone, x)
    assert all(torch.equal(one, other) for one, other in zip(maps, backbone.adapter(x), strict=True))
    assert [tuple(m.shape[1:]) for m in maps] == [(32, 13, 9), (64, 4, 3)]
    assert isinstance(backbone(x, return_dict=False), tuple)


def test_a_pyramids_levels_are_stages() -> None:
    backbone = TimmAdapterBackbone(config("vit_pyramid", strides=STRIDES))
    assert backbone.out_features == backbone.stage_names == ["stride4", "stride8", "stride16", "stride32"]
    assert backbone.channels == [24] * 4 == [m.shape[1] for m in maps_of(backbone, image(97, 65))]
    again = TimmAdapterConfig.from_dict(backbone.config.to_dict())
    assert TimmAdapterBackbone(again).out_features == backbone.out_features


@pytest.mark.parametrize(
    ("head", "name", "more"),
    [
        ("DETR", "vit_rope_reg", {"out_indices": [-1]}),
        ("DETR", "mobilenet", {}),
        ("Mask2Former", "dinov3", {"strides": STRIDES}),
        ("Mask2Former", "swinv2_cr", {"strides": STRIDES}),
        ("UPerNet", "twins_svt", {"strides": STRIDES}),
        ("UPerNet", "swin", {"out_indices": [0, 1, 2, 3]}),
    ],
)
def test_a_head_trains_and_comes_back_from_a_file(head: str, name: str, more: dict[str, Any], tmp_path: Path) -> None:
    build, loss = steps.TRANSFORMERS[head]
    backbone = config(name, **more)
    if name == "dinov3":
        backbone.options["pyramid"] = PYRAMID
    model = build(backbone).train()
    x = image(97, 65, batch=1)
    loss(model, x).backward()
    (adapter,) = (module for module in model.modules() if isinstance(module, BackboneAdapter))
    assert [key for key, parameter in adapter.named_parameters() if parameter.grad is None] == []
    randomise(model).eval()
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).eval()
    assert loaded.config.backbone_config.model_type == "timm_adapter"
    stored = model.state_dict()
    assert all(torch.equal(tensor, stored[name]) for name, tensor in loaded.state_dict().items())
    assert loaded.state_dict().keys() == stored.keys()
    with torch.no_grad():
        actual, expected = loaded(x), model(x)
    key = "logits" if head != "Mask2Former" else "masks_queries_logits"
    # Not bit by bit: memory that is mapped from a file may lie so that another kernel of the CPU takes it.
    torch.testing.assert_close(actual[key], expected[key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["twins_pcpvt", "vit_patch14_reg", "eva02", "convit", "beit", "nest", "swin", "coat"])
def test_a_backbone_comes_back_with_its_tables(name: str, tmp_path: Path) -> None:
    backbone = randomise(TimmAdapterBackbone(config(name)))
    backbone.save_pretrained(tmp_path)
    loaded, info = TimmAdapterBackbone.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert AutoConfig.from_pretrained(tmp_path).out_features == backbone.out_features
    assert type(AutoModel.from_pretrained(tmp_path)) is TimmAdapterBackbone
    buffers = dict(backbone.named_buffers())
    assert all(torch.equal(buffer, buffers[key]) for key, buffer in loaded.named_buffers())
    x = image(97, 65)
    assert all(torch.equal(one, other) for one, other in zip(maps_of(loaded, x), maps_of(backbone, x), strict=True))


def test_a_tensor_that_a_file_lacks_starts_as_in_a_new_adapter(tmp_path: Path) -> None:
    TimmAdapterBackbone(config("convnext")).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    missing = next(key for key in tensors if key.endswith("gamma"))
    save_file({key: tensor for key, tensor in tensors.items() if key != missing}, file, {"format": "pt"})
    loaded, info = TimmAdapterBackbone.from_pretrained(tmp_path, output_loading_info=True)
    assert set(info["missing_keys"]) == {missing}
    torch.testing.assert_close(loaded.state_dict()[missing], torch.full((8,), 1e-6))


@pytest.mark.parametrize("in_head", [False, True])
def test_frozen_stages_stay_frozen(in_head: bool, tmp_path: Path) -> None:
    backbone_config = config("vit")
    backbone_config.options["frozen_stages"] = 1
    model = steps.upernet(backbone_config) if in_head else TimmAdapterBackbone(backbone_config)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).train()
    frozen = [[name for name, p in one.named_parameters() if not p.requires_grad] for one in (model, loaded)]
    assert frozen[0] == frozen[1] != []
    (adapter,) = (module for module in loaded.modules() if isinstance(module, BackboneAdapter))
    assert [block.training for block in adapter.trunk.blocks] == [False, True, True, True]
    for parameter in loaded.parameters():  # what a user does later stays
        parameter.requires_grad_(True)
    assert all(parameter.requires_grad for parameter in loaded.train().parameters())


def test_detr_keeps_the_activations_inside_norms(tmp_path: Path) -> None:
    model = steps.detr(config("mobilenet"))
    randomise(model).eval()
    plain = TimmAdapterBackbone(config("mobilenet"))
    state = model.model.backbone.model.state_dict()
    plain.load_state_dict({**plain.state_dict(), **state})
    x = image(97, 65)

    def check(detr: torch.nn.Module) -> None:
        for one, other in zip(maps_of(detr.model.backbone.model, x), maps_of(plain, x), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)

    check(model)
    model.save_pretrained(tmp_path)
    check(DetrForObjectDetection.from_pretrained(tmp_path))


@pytest.mark.parametrize("name", ["vit", "twins_svt", "swinv2_cr", "resnet"])
def test_gradient_checkpointing_is_switched_on_and_off(name: str) -> None:
    backbone = randomise(TimmAdapterBackbone(config(name)))
    x, calls = image(40, 56), []
    for module in backbone.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            module.register_forward_pre_hook(lambda *_: calls.append(1))

    def step() -> tuple[int, dict[str, torch.Tensor]]:
        backbone.train().zero_grad()
        calls.clear()
        torch.manual_seed(0)  # SwinV2-CR has dropout in its position network
        sum(m.square().mean() for m in backbone(x).feature_maps).backward()
        return len(calls), {key: parameter.grad.clone() for key, parameter in backbone.named_parameters()}

    few, expected = step()
    for _ in range(2):
        backbone.activation_checkpointing_enable()
        many, gradients = step()
        assert many > few
        for key, gradient in gradients.items():
            torch.testing.assert_close(gradient, expected[key], msg=key)
        backbone.activation_checkpointing_disable()
        assert step()[0] == few


def test_a_head_switches_its_backbone() -> None:
    head = steps.detr(config("vit", out_indices=[-1]))
    head.activation_checkpointing_enable()
    assert head.model.backbone.model.adapter.with_cp
    head.activation_checkpointing_disable()
    assert not head.model.backbone.model.adapter.with_cp


def test_weights_are_loaded_when_asked_for(tmp_path: Path) -> None:
    source = SPECS["twins_svt"].build()
    torch.save(source.trunk.state_dict(), tmp_path / "trunk.pth")
    backbone_config = config("twins_svt")
    backbone_config.options["weights"] = str(tmp_path / "trunk.pth")
    head = steps.upernet(backbone_config)
    trunk = head.backbone.adapter.trunk
    assert not all(torch.equal(t, source.trunk.state_dict()[key]) for key, t in trunk.state_dict().items())
    load_weights(head)
    assert all(torch.equal(t, source.trunk.state_dict()[key]) for key, t in trunk.state_dict().items())


def test_a_backbone_is_copied() -> None:
    backbone, x = TimmAdapterBackbone(config("mobilenet")), image(40, 56)
    copied = copy.deepcopy(backbone)
    assert all(torch.equal(one, other) for one, other in zip(maps_of(copied, x), maps_of(backbone, x), strict=True))


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^pyramid is an option of the adapter: .* options=dict\(pyramid=\.\.\.\)"):
        TimmAdapterConfig(model_name="resnet18", pyramid=PYRAMID)
    with pytest.raises(ValueError, match=r"^stride is no field .* did you mean strides\?"):
        TimmAdapterConfig(model_name="resnet18", stride=STRIDES)
    with pytest.raises(ValueError, match=r"name the stages by out_indices"):
        TimmAdapterConfig(model_name="resnet18", out_features=["stage2"])
    with pytest.raises(ValueError, match="takes no pyramidd"):
        TimmAdapterBackbone(TimmAdapterConfig(model_name="resnet18", options={"pyramidd": PYRAMID}))
    with pytest.raises(ValueError, match=r"^This head takes strides 4, 8, 16, 32, but .* pyramid=dict"):
        steps.mask2former(config("vit", strides=STRIDES))
    with pytest.raises(ValueError, match="give out_indices to the config itself"):
        TimmAdapterBackbone(TimmAdapterConfig(model_name="resnet18", options={"out_indices": [1]}))
    with pytest.raises(ValueError, match="all 4 levels of a pyramid come out"):
        TimmAdapterBackbone(config("vit_pyramid", out_indices=[0, 1]))
    with pytest.raises(ValueError, match=r"timm .* has no model named 'resnet19'"):
        TimmAdapterBackbone(TimmAdapterConfig(model_name="resnet19"))
    with pytest.raises(ValueError, match="output_hidden_states"):
        TimmAdapterBackbone(config("vit"))(image(40, 56), output_hidden_states=True)
