"""The cells of one family: a training step in each head, of an adapter or of the framework's own wrapper of timm."""

import gc
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import timm
import torch
from segmentation_models_pytorch.decoders import dpt as smp_dpt
from torch import nn
from transformers import PreTrainedConfig, TimmBackboneConfig

from adapters import TimmAdapter
from adapters.interop import smp
from adapters.interop.torchvision import TorchvisionBackbone
from adapters.interop.transformers import TimmAdapterBackbone, TimmAdapterConfig
from adapters.levels import DETECTOR_STRIDES
from lab.coverage.checks import NOISE, Size, outcome, random_image, require, require_close
from lab.coverage.representatives import Representative
from lab.frameworks import steps
from lab.randomise import randomise

#: Two sizes that heads divide, and one that they do not.
SIZES: tuple[Size, ...] = ((224, 224), (96, 160), (97, 65))
PYRAMID = {"type": "SimpleFeaturePyramid", "out_channels": 16}
#: The column of what transformers saves and loads.
ROUND_TRIP = "from_pretrained"
#: What smp says of a size that its own decoder cannot take.
HEADS_REFUSAL = "Wrong input shape"

Cells = Iterator[tuple[str, str]]


def dense_options(model_name: str) -> Mapping[str, Any]:
    """Return the options with which a model gives strides 4, 8, 16, 32: none, or a pyramid."""
    adapter = TimmAdapter(model_name)
    return {} if tuple(level.stride for level in adapter.levels) == DETECTOR_STRIDES else {"pyramid": PYRAMID}


def measure_adapters(one: Representative, sizes: Sequence[Size]) -> Cells:
    """Yield ``(head and size, outcome)`` for an adapter in every head; every parameter of its trunk must learn."""
    gc.freeze()  # so that looking for what a head leaves behind takes no longer than the head
    name = one.model_name
    options = dense_options(name)
    adapter = TimmAdapter(name, **options)
    backbone = TorchvisionBackbone(adapter, steps.WIDTH)
    for kind in steps.TORCHVISION:
        label = f"torchvision {kind.__name__}"
        yield from _steps(label, partial(steps.detector, kind, backbone), steps.detection_loss, sizes, "trunk.")
    del backbone
    encoder = smp.register(adapter)
    for head in steps.SMP:
        yield from _steps(
            f"smp {head}", partial(steps.smp_model, head, encoder), steps.segmentation_loss, sizes, "trunk."
        )
    dpt = TimmAdapter(name) if options and _suits_dpt(name) else adapter
    del adapter
    smp.encoders.pop(encoder)
    yield from _steps("smp DPT", partial(smp.DPT, dpt, **steps.DPT), steps.segmentation_loss, sizes, "trunk.")
    del dpt
    for head, (build_head, loss) in steps.TRANSFORMERS.items():
        config = (
            TimmAdapterConfig(model_name=name, out_indices=[-1])
            if head == "DETR"
            else TimmAdapterConfig(model_name=name, options=options, strides=DETECTOR_STRIDES)
        )
        yield from _steps(f"transformers {head}", partial(build_head, config), loss, sizes, "trunk.")
    yield ROUND_TRIP, outcome(check_round_trip, name)


def _suits_dpt(model_name: str) -> bool:
    strides = [level.stride for level in TimmAdapter(model_name).levels]
    return len(strides) == 4 and not any(stride & (stride - 1) for stride in strides)


def measure_wrappers(one: Representative, sizes: Sequence[Size]) -> Cells:
    """Yield the same for transformers' TimmBackbone and smp's ``tu-`` encoders; torchvision has none."""
    gc.freeze()
    name = one.model_name
    for head in steps.SMP:
        yield from _steps(f"smp {head}", partial(steps.smp_model, head, f"tu-{name}"), steps.segmentation_loss, sizes)
    yield from _steps("smp DPT", partial(_timm_dpt, name), steps.segmentation_loss, sizes)
    for head, (build_head, loss) in steps.TRANSFORMERS.items():
        yield from _steps(f"transformers {head}", partial(_over_timm, build_head, name, head), loss, sizes)


def _timm_dpt(name: str) -> nn.Module:
    arguments = {"encoder_weights": None, "decoder_readout": "ignore", **steps.DPT}
    try:
        return smp_dpt.DPT(f"tu-{name}", dynamic_img_size=True, **arguments)
    except TypeError:
        return smp_dpt.DPT(f"tu-{name}", **arguments)


def _over_timm(build_head: Callable[[PreTrainedConfig], nn.Module], name: str, head: str) -> nn.Module:
    return build_head(_timm_config(name, head))


def _timm_config(name: str, head: str) -> PreTrainedConfig:
    """Ask for the strides that an adapter gives, or for the last four stages where there are others."""
    strides = timm.create_model(name, features_only=True).feature_info.reduction()
    places = [place for place, stride in enumerate(strides) if stride in DETECTOR_STRIDES]
    if [strides[place] for place in places] != list(DETECTOR_STRIDES):
        places = list(range(len(strides)))[-len(DETECTOR_STRIDES) :]
    return TimmBackboneConfig(backbone=name, out_indices=places[-1:] if head == "DETR" else places)


def _steps(
    label: str, build: Callable[[], nn.Module], loss: steps.Loss, sizes: Sequence[Size], part: str | None = None
) -> Cells:
    models: list[nn.Module] = []
    torch.manual_seed(0)
    answer = outcome(lambda: models.append(build().train()))
    for size in sizes:
        column = f"{label} {size[0]}x{size[1]}"
        yield column, outcome(check_step, models[0], loss, size, part) if models else answer
    models.clear()
    gc.collect()


def check_round_trip(model_name: str) -> None:
    """Require of a backbone that transformers saves and loads its tensors bit for bit, and its maps but for rounding.

    All parameters are moved before. Tensors that are read from a file lie elsewhere in memory, and a CPU may add up
    their products in another order.
    """
    backbone = randomise(TimmAdapterBackbone(TimmAdapterConfig(model_name=model_name)), scale=NOISE).eval()
    image = random_image(SIZES[-1])
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        backbone.save_pretrained(folder)
        loaded = TimmAdapterBackbone.from_pretrained(folder).eval()
        maps, expected = loaded(image).feature_maps, backbone(image).feature_maps
    held = {**dict(loaded.named_parameters()), **dict(loaded.named_buffers())}
    for name, tensor in [*backbone.named_parameters(), *backbone.named_buffers()]:
        require(torch.equal(held[name], tensor), f"{name} differs")
    require_close(maps, expected)


def check_step(model: nn.Module, loss: steps.Loss, size: Size, part: str | None) -> None:
    """Require a finite loss, and a finite gradient of every parameter that trains and whose name holds ``part``.

    An adapter freezes what the forward pass touches without effect (HRNet's last exchange, where one map is asked for).
    """
    model.zero_grad()
    total = loss(model, random_image(size, batch=2))  # the batch norms of some attentions cannot do with one
    require(bool(torch.isfinite(total)), f"the loss is {float(total.detach())}")
    total.backward()
    parameters = {name: p for name, p in model.named_parameters() if part in name and p.requires_grad} if part else {}
    require(bool(parameters) == bool(part), "no parameter trains")
    missing = [name for name, p in parameters.items() if p.grad is None]
    require(not missing, f"no gradient of {len(missing)} of {len(parameters)} parameters, such as {missing[:1]}")
    infinite = [name for name, p in parameters.items() if p.grad is not None and not torch.isfinite(p.grad).all()]
    require(not infinite, f"{len(infinite)} gradients are not finite, such as {infinite[:1]}")
