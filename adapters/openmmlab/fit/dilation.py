"""A dilated timm model where the backbone that it replaces was dilated, and a line for the log either way.

The heads of DeepLab, PSPNet, FCN or DC5 read the deepest features at stride 8 or 16.
"""

from typing import Any

from adapters.base import BackboneAdapter
from adapters.factory import TimmAdapter
from adapters.levels import is_token_model
from adapters.openmmlab.fit.original import Original
from adapters.trunk.build import build_without_data
from adapters.trunk.dilation import OUTPUT_STRIDE

#: The strides down to which backbones are dilated for heads. Others end at a stride of their own (ERFNet's is 2).
OUTPUT_STRIDES = (8, 16)


def follow_dilation(
    adapter: BackboneAdapter, options: dict[str, Any], original: Original, place: str
) -> tuple[BackboneAdapter, list[str]]:
    """Dilate the new backbone as the former one was, where timm can and the caller has not decided.

    Args:
        adapter: the new backbone as its options are now.
        options: its keyword arguments; ``trunk`` gets an ``output_stride``.
        original: the former backbone.
        place: of the backbone in the config, for the lines.

    Returns:
        The adapter that the options now build, and a line that says what was done, or why it could not be.
    """
    wanted = original.levels[-1].stride
    trunk = dict(options.get("trunk") or {})
    deepest = max(level.stride for level in adapter.stage_levels)
    if not original.dilated or wanted not in OUTPUT_STRIDES or deepest <= wanted or OUTPUT_STRIDE in trunk:
        return adapter, []
    dilated = {**options, "trunk": {**trunk, OUTPUT_STRIDE: wanted}}
    was = f"{place}: {original.name} was dilated to stride {wanted}"
    model_name = adapter.model_name
    if not is_token_model(adapter.stage_levels):
        try:
            adapter = build_without_data(lambda: TimmAdapter(model_name, **dilated))
        except ValueError:
            return adapter, [f"{was}; timm cannot dilate {model_name}: its stages keep their strides, up to {deepest}"]
        options.update(dilated)
        return adapter, [f"{was}, and so is {model_name}: trunk=dict({OUTPUT_STRIDE}={wanted})"]
    return adapter, [f"{was}; {model_name} has stride {deepest} throughout"]
