"""A description of a timm model as a backbone: levels, parameters, multiply-adds, and the lines for a config."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from adapters.base import BackboneAdapter
from adapters.describe.counting import Count, count
from adapters.factory import TimmAdapter
from adapters.levels import Level, is_token_model
from adapters.preprocessing import Normalisation
from adapters.trunk.build import build_without_data
from adapters.trunk.hosted_models import create_timm_model, has_weights

#: The pyramid that the lines for a config give to a model of one stride.
PYRAMID = {"type": "SimpleFeaturePyramid", "out_channels": 256}

#: Pixels of a side where timm does not say for which size a model was trained.
USUAL_SIDE = 224


@dataclass(frozen=True)
class Backbone:
    """A timm model as an adapter, and as the classifier that its model card describes.

    Attributes:
        name: timm's name of the model.
        family: name of the adapter's class.
        levels: channels and strides of its maps.
        out_indices: stages or blocks that the levels come from.
        count: the adapter's parameters and multiply-adds.
        classifier: those of timm's complete model at its native size, as model cards count; None where it does not run.
        preprocessing: the normalisation that its weights were trained with.
        lines: lines to paste into a config.
        exports_any_size: whether a file of it can leave height and width open.
    """

    name: str
    family: str
    levels: tuple[Level, ...]
    out_indices: tuple[int, ...]
    count: Count
    classifier: Count | None
    preprocessing: Normalisation
    lines: str
    exports_any_size: bool


def describe_backbone(
    model_name: str, size: tuple[int, int] | None = None, options: Mapping[str, Any] | None = None
) -> Backbone:
    """Build a timm model without weights, and describe it.

    Args:
        model_name: any timm name, with or without a tag.
        size: ``(H, W)`` of the image; default: the model's native size.
        options: keyword arguments of the adapter.

    Raises:
        ValueError: there is no such model, it cannot be a backbone, or an option is not allowed.
    """
    options = dict(options or {})
    adapter = build_without_data(lambda: TimmAdapter(model_name, **options)).eval()
    native = native_size(adapter)
    return Backbone(
        name=model_name,
        family=type(adapter).__name__,
        levels=adapter.levels,
        out_indices=adapter.out_indices,
        count=count(adapter, size or native, adapter, adapter.in_channels),
        classifier=count_classifier(model_name, native),
        preprocessing=adapter.preprocessing,
        lines=config_lines(adapter, options),
        exports_any_size=adapter.exports_any_size,
    )


def native_size(adapter: BackboneAdapter) -> tuple[int, int]:
    """Return ``(H, W)`` of the images that the model was trained on, in pixels."""
    size = adapter.trunk.pretrained_cfg.get("input_size") or (3, USUAL_SIDE, USUAL_SIDE)
    return size[1], size[2]


def count_classifier(model_name: str, size: tuple[int, int]) -> Count | None:
    """Count timm's own model, with its classifier, on one image; None where it needs values to run."""
    model = build_without_data(lambda: create_timm_model(model_name)).eval()
    try:
        return count(model, size, model)
    except (NotImplementedError, RuntimeError):
        # Some models compute with values, which tensors without data lack; their description has no such count.
        return None


def config_lines(adapter: BackboneAdapter, options: Mapping[str, Any]) -> str:
    """Write the lines of a config: import, normalisation of the weights, backbone, and an FPN that fits it.

    A model of one stride gets a pyramid, since that is what a config with an FPN needs.
    """
    backbone = dict(type="TimmAdapter", model_name=adapter.model_name, **options)
    levels: Sequence[Level] = adapter.levels
    if is_token_model(adapter.stage_levels) and adapter.pyramid is None:
        backbone.update(pyramid=PYRAMID)
        with torch.device("meta"):
            levels = _with_pyramid(adapter, options)
    else:
        backbone.setdefault("out_indices", adapter.out_indices)
    weights = "timm" if has_weights(adapter.model_name) else None
    backbone.setdefault("weights", weights)
    fed = adapter.preprocessing
    mean, std = ([round(value, 3) for value in values] for values in (fed.mean, fed.std))
    channels = [level.channels for level in levels]
    return "\n".join(
        (
            "custom_imports = dict(imports=['adapters'], allow_failed_imports=False)",
            "model = dict(",
            f"    data_preprocessor=dict(mean={mean}, std={std}, bgr_to_rgb={fed.channel_order == 'RGB'}),",
            f"    backbone={_format_dict(backbone)},",
            f"    neck=dict(type='FPN', in_channels={channels}, out_channels=256, num_outs={len(levels) + 1}),",
            ")",
        )
    )


def _with_pyramid(adapter: BackboneAdapter, options: Mapping[str, Any]) -> tuple[Level, ...]:
    return TimmAdapter(adapter.model_name, **dict(options, pyramid=PYRAMID)).levels


def _format_dict(value: Any) -> str:
    """Write a value as Python source, dicts with ``dict(...)`` as in OpenMMLab's configs."""
    if isinstance(value, Mapping):
        return f"dict({', '.join(f'{key}={_format_dict(inner)}' for key, inner in value.items())})"
    return repr(value)
