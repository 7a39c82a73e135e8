"""Dilated trunks: with timm's ``output_stride`` the last stages dilate their convolutions and keep the map's size."""

from collections.abc import Callable, Mapping
from typing import Any

from timm.models.mobilenetv3 import MobileNetV3
from torch import nn

#: timm's argument for the stride of the deepest map.
OUTPUT_STRIDE = "output_stride"


def build_dilated(build: Callable[[Mapping[str, Any]], Any], model_name: str, arguments: Mapping[str, Any]) -> Any:
    """Build a timm model whose deepest map has the stride that ``arguments`` say.

    Args:
        build: makes the model with given arguments.
        model_name: its name, for messages.
        arguments: what it is to be made with, ``output_stride`` among them.

    Raises:
        ValueError: timm cannot dilate this model, or not to this stride.
    """
    wanted = arguments[OUTPUT_STRIDE]
    refusal: Exception | None = None
    if type(wanted) is int:
        try:
            trunk = build(arguments)
            if _deepest_stride(trunk) == wanted:
                return trunk
        except (AssertionError, ValueError) as error:  # timm's ways of refusing
            refusal = error
    plain = without_output_stride(arguments)
    trunk = build(plain)
    if type(wanted) is int and wanted == _deepest_stride(trunk):
        return trunk
    if refusal is not None and isinstance(trunk, MobileNetV3) and wanted in (8, 16):
        return _with_dilated_blocks(trunk, build({**plain, "features_only": True, OUTPUT_STRIDE: wanted}))
    strides = sorted({info["reduction"] for info in getattr(trunk, "feature_info", ())})
    raise ValueError(
        f"trunk=dict({OUTPUT_STRIDE}={wanted!r}) cannot be had of {model_name}, whose own strides are {strides}: timm "
        "dilates convolutional models such as ResNet, RegNet, EfficientNet, MobileNet and ConvNeXt, down to an "
        f"{OUTPUT_STRIDE} of 16 or 8. Leave it out, or choose such a model and stride."
    ) from refusal


def without_output_stride(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Leave ``output_stride`` out of the arguments of a model: no parameter depends on it."""
    return {key: value for key, value in arguments.items() if key != OUTPUT_STRIDE}


def _deepest_stride(trunk: Any) -> int | None:
    """Return the stride of the last map, pixels; None for a model without maps."""
    return max((info["reduction"] for info in getattr(trunk, "feature_info", ())), default=None)


def _with_dilated_blocks(trunk: MobileNetV3, features: Any) -> nn.Module:
    """Take the blocks of timm's feature extractor, the only form of MobileNetV3 that timm dilates."""
    trunk.blocks = features.blocks
    trunk.feature_info = features.feature_info.info
    return trunk
