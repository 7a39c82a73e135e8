"""Recomputation in trunks that are one list of layers, such as VGG's; the zoo has all other kinds."""

import copy

import torch
from timm.models.dla import DLA
from timm.models.vgg import VGG
from torch import nn
from zoo import image

from adapters.trunk.recompute import recompute_blocks


def count_calls(model: nn.Module, x: torch.Tensor) -> int:
    """Run a step, and count the convolutions in it."""
    calls: list[int] = []
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer._conv_forward = lambda *given, run=layer._conv_forward: (calls.append(1), run(*given))[1]
    maps = model.forward_intermediates(x, intermediates_only=True)
    sum(feature_map.square().mean() for feature_map in maps).backward()
    return len(calls)


def test_layers_between_poolings_are_recomputed_together() -> None:
    torch.manual_seed(0)
    keeping = VGG([8, 8, "M", 16, "M"], num_classes=0)
    del keeping.pre_logits
    recomputing = copy.deepcopy(keeping)
    recompute_blocks(recomputing)
    x = image(32, 32)
    assert count_calls(keeping, x) == 3
    assert count_calls(recomputing, x) == 6
    gradients = {name: parameter.grad for name, parameter in keeping.named_parameters()}
    for name, parameter in recomputing.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name])


def test_ours_is_switched_on_and_off() -> None:
    vgg = VGG([8, 8, "M", 16, "M"], num_classes=0)
    del vgg.pre_logits
    dla = DLA([1, 1, 1, 1, 1, 1], [8] * 6)
    for model in (vgg, dla):  # layers that run together, and blocks
        x = image(64, 64)
        plain = count_calls(model, x)
        for enable in (True, False, True, False):
            recompute_blocks(model, enable)
            assert (count_calls(model, x) > plain) is enable


def test_layers_that_run_together_are_called_as_modules() -> None:
    """So that hooks, and what stands in a layer's place, have their effect."""
    vgg = VGG([8, 8, "M", 16, "M"], num_classes=0)
    del vgg.pre_logits
    recompute_blocks(vgg)
    vgg.features[2] = nn.Sequential(vgg.features[2], nn.Tanh())
    called: list[str] = []
    for name, layer in vgg.features.named_children():
        layer.register_forward_hook(lambda *_, name=name: called.append(name))
    vgg.forward_intermediates(image(32, 32), intermediates_only=True)
    assert called == [str(index) for index in range(len(vgg.features))]
    assert {type(layer) for layer in vgg.features.children()} == {nn.Conv2d, nn.ReLU, nn.MaxPool2d, nn.Sequential}


def test_a_pass_that_stops_early_recomputes_too() -> None:
    """It goes through a slice of the layers."""
    vgg = VGG([8, 8, "M", 16, "M"], num_classes=0)
    del vgg.pre_logits
    recompute_blocks(vgg)
    calls: list[int] = []
    for layer in vgg.features.children():
        layer.register_forward_hook(lambda *_: calls.append(1))
    maps = vgg.forward_intermediates(image(32, 32), indices=[0], intermediates_only=True, stop_early=True)
    before = len(calls)
    maps[0].square().mean().backward()
    assert len(calls) > before
