"""Probing a config's own backbone for the maps that its neck and heads expect.

The backbone runs on tensors without data where it can, which takes no time to speak of.
"""

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from adapters.levels import Level
from adapters.openmmlab.config_tree import Node, drop_pretrained, type_name

#: Sides of the images to try, pixels, after the size that the backbone is configured for: some run at that one only.
SIDES = (128, 224, 512, 640)

RECURSIVE = (
    "DetectoRS is a ResNet with switchable convolutions and a pyramid that feeds its maps back into a second one "
    "(rfp_backbone); without them it is a Cascade R-CNN, so start from a config of cascade_rcnn"
)

#: Algorithms that their backbone makes, and why another one cannot take its place.
IRREPLACEABLE = {
    "TridentResNet": "TridentNet is its backbone: three branches of shared weights and different dilation, of which "
    "the detector picks one at test time; without them it is a Faster R-CNN, so start from a config of faster_rcnn",
    "DetectoRS_ResNet": RECURSIVE,
    "DetectoRS_ResNeXt": RECURSIVE,
    "VPD": "it is a diffusion model conditioned on text",
}


@dataclass(frozen=True)
class Original:
    """The maps of the backbone that is to be replaced.

    Attributes:
        name: its type.
        levels: channels and strides of its maps in training, in order.
        single_in_eval: index of the map that it gives alone, as a tensor, in eval mode; None if it gives all.
        class_tokens: each map comes with its class token, as a pair.
        in_channels: channels of the image that it takes.
        dilated: it has dilated convolutions, which keep a map's size where a stage would have halved it.
    """

    name: str
    levels: tuple[Level, ...]
    single_in_eval: int | None = None
    class_tokens: bool = False
    in_channels: int = 3
    dilated: bool = False


def probe_original(config: Node | list[Node], scope: str) -> Original:
    """Build a backbone from its config, without weights, and run it.

    Raises:
        ValueError: it cannot be built or run here, or gives something other than maps.
    """
    first_part = config[0] if isinstance(config, list) else config  # a list is built as a sequence
    name = type_name(first_part)
    if name in IRREPLACEABLE:
        raise ValueError(f"the backbone of this config, {name}, cannot be swapped: {IRREPLACEABLE[name]}.")
    config = copy.deepcopy(config)
    drop_pretrained(config)
    try:
        with DefaultScope.overwrite_default_scope(scope), torch.random.fork_rng(devices=[]):
            backbone = revert_sync_batchnorm(MODELS.build(config))
    except Exception as error:
        raise ValueError(
            f"the config's own backbone, {name}, cannot be built, so what its neck and heads expect is not known: "
            f"{type(error).__name__}: {error}"
        ) from error
    in_channels = first_part.get("in_channels", 3)
    own_size = first_part.get("img_size") or ()
    sides = (*([own_size] if isinstance(own_size, int) else own_size[:1]), *SIDES)
    shape, outputs, in_eval = _run(backbone, name, in_channels, sides)
    maps = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    class_tokens = all(_is_pair(item) for item in maps)
    if class_tokens:
        maps = [item[0] for item in maps]
    if not maps or not all(isinstance(item, Tensor) and item.ndim == 4 for item in maps):
        raise ValueError(
            f"the config's own backbone, {name}, gives something other than feature maps: {_describe(outputs)}."
        )
    levels = tuple(Level(item.shape[1], round(shape[-1] / item.shape[-1])) for item in maps)
    single = None
    if isinstance(in_eval, Tensor) and len(maps) > 1:
        same = [index for index, item in enumerate(maps) if item.shape == in_eval.shape]
        single = same[-1] if same else len(maps) - 1
    dilated = any(max(module.dilation) > 1 for module in backbone.modules() if isinstance(module, nn.Conv2d))
    return Original(name, levels, single, class_tokens, in_channels, dilated)


def _run(backbone: nn.Module, name: str, in_channels: int, sides: Sequence[int]) -> tuple[tuple[int, ...], Any, Any]:
    """Find the shape of an image that the backbone takes, and run it in training and in eval mode.

    Returns:
        ``(B, C, H, W)`` of the image, and the outputs in each mode.

    Raises:
        ValueError: it does not run at any of the sizes.
    """
    first: Exception | None = None
    for side in sides:
        shape = (2, in_channels, side, side)
        for mode in (FakeTensorMode(allow_non_fake_inputs=True), nullcontext()):  # mmcv's operators need real tensors
            try:
                with mode, torch.no_grad():
                    image = torch.zeros(shape)
                    backbone.train()
                    outputs = backbone(image)
                    backbone.eval()
                    return shape, outputs, backbone(image)
            except Exception as reason:
                first = first or reason
    raise ValueError(
        f"the config's own backbone, {name}, does not run on images of {', '.join(map(str, sides))} pixels, so what "
        f"its neck and heads expect is not known: {first}"
    )


def _is_pair(item: Any) -> bool:
    return isinstance(item, list | tuple) and len(item) == 2 and item[0].ndim == 4 and item[1].ndim == 2


def _describe(outputs: Any) -> str:
    if isinstance(outputs, Tensor):
        return f"a tensor of shape {tuple(outputs.shape)}"
    if isinstance(outputs, Sequence):
        return f"[{', '.join(_describe(item) for item in outputs)}]"
    return type(outputs).__name__
