"""The training habits of a former backbone, such as frozen stages, carried over to a timm model."""

import inspect
from collections.abc import Collection
from typing import Any

from mmengine.registry import MODELS

from adapters.base import BackboneAdapter
from adapters.factory import TimmAdapter
from adapters.levels import is_token_model
from adapters.openmmlab.config_tree import Node, type_name
from adapters.trunk import freezing
from adapters.trunk.build import build_without_data

#: Settings that mean the same in OpenMMLab's backbones and in an adapter.
HABITS = ("norm_eval", "frozen_stages", "with_cp", "drop_path_rate")

#: Settings that the swap itself decides, and tells.
DECIDED = (
    *("type", "model_name", "weights", "init_cfg", "pretrained", "out_indices", "pyramid", "in_channels"),
    *("strides", "dilations", "contract_dilation"),
)

#: Stages after the stem in backbones that have other than four.
STAGES = {"MobileNetV2": 7, "MobileNetV3": 12, "Darknet": 5, "EfficientNet": 5}

#: Backbones whose ``frozen_stages`` counts the stem as the first, so that 0 freezes nothing.
STEM_IS_FIRST = ("Darknet", "EfficientNet")


def carry_over(
    former: Node, backbone: Node, full: BackboneAdapter, built: BackboneAdapter, chosen: Collection[str], scope: str
) -> list[str]:
    """Give an adapter the training habits of the backbone that it replaces, where they have a meaning for it.

    Frozen stages keep their share of the depth: one stage of four is the first of four, or three blocks of twelve.
    They, and batch norms in eval mode, need pretrained weights, since they would keep random numbers.

    Args:
        former: the config of the former backbone.
        backbone: the config of the adapter, in which the habits are written.
        full: the adapter with all stages or blocks of its model.
        built: the adapter with those that its maps need.
        chosen: settings of the adapter that the user has chosen.
        scope: ``'mmdet'`` or ``'mmseg'``.

    Returns:
        A line for what is carried over, and one for what is dropped.
    """
    name = type_name(former)
    carried: list[str] = []
    dropped = [f"{key}={_short(value)}" for key, value in former.items() if key not in (*HABITS, *DECIDED)]
    for key in HABITS:
        value = _effective(former, key, scope)
        if key in chosen or value is None or (value < 0 if key == "frozen_stages" else not value):
            continue
        if reason := _why_meaningless(key, value, backbone, full):
            dropped.append(f"{key}={value} ({reason})")
            continue
        how = ""
        if key == "frozen_stages":
            value, how = _map_stages(former, value, full, built)
        backbone[key] = value
        carried.append(f"{key}={value}{how}")
    lines = [f"carried over from {name}: {', '.join(carried)}"] if carried else []
    return [*lines, f"dropped with {name}: {', '.join(dropped)}"] if dropped else lines


def _effective(former: Node, key: str, scope: str) -> Any:
    """Return a setting, or its default in the class: mmdet's ResNet has ``norm_eval=True`` where nothing is said."""
    kind = former.get("type")
    if isinstance(kind, str):
        with MODELS.switch_scope_and_registry(scope) as registry:
            kind = registry.get(kind)
    value = former.get(key)
    for parent in inspect.getmro(kind) if isinstance(kind, type) else ():
        parameter = inspect.signature(parent).parameters.get(key)
        if value is None and parameter is not None and parameter.default is not parameter.empty:
            value = parameter.default
    if key == "frozen_stages" and value is not None and type_name(former) in STEM_IS_FIRST:
        return value - 1
    return value


def _why_meaningless(key: str, value: Any, backbone: Node, full: BackboneAdapter) -> str:
    """Say why a habit has no meaning for an adapter; empty if it has one."""
    if key in ("norm_eval", "frozen_stages") and not (backbone.get("weights") or backbone.get("init_cfg")):
        return "the new weights are random"
    if key == "norm_eval" and not freezing.batch_norms(full.trunk):
        return f"{full.model_name} has no batch norm"
    if key == "drop_path_rate":
        try:
            build_without_data(lambda: TimmAdapter(full.model_name, drop_path_rate=value, trunk=backbone.get("trunk")))
        except ValueError:
            return f"{full.model_name} has no stochastic depth"
    return ""


def _map_stages(former: Node, frozen: int, full: BackboneAdapter, built: BackboneAdapter) -> tuple[int, str]:
    """Return the stages or blocks to freeze, and how they were found."""
    if frozen == 0:
        return 0, " (the stem)"
    former_count, former_kind = STAGES.get(type_name(former), 4), "stages"
    if "model_name" in former:
        options = {key: former[key] for key in ("model_name", "trunk") if key in former}
        former_count, former_kind = _count_parts(build_without_data(lambda: TimmAdapter(**options)))
    count, kind = _count_parts(full)
    share = max(1, round(min(frozen / former_count, 1) * count))
    share = min(share, _count_parts(built)[0])
    return share, f" (the stem and {frozen} of {former_count} {former_kind}: the stem and {share} of {count} {kind})"


def _count_parts(adapter: BackboneAdapter) -> tuple[int, str]:
    return len(adapter.part_names()) - 1, "blocks" if is_token_model(adapter.stage_levels) else "stages"


def _short(value: Any) -> str:
    text = repr(value.to_dict() if hasattr(value, "to_dict") else value)
    return text if len(text) <= 60 else f"{text[:57]}..."
