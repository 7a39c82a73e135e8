"""Swapping the backbone of a config for a timm model, and fitting its neck and heads to the new levels."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import ConfigDict

from adapters.base import BackboneAdapter
from adapters.factory import TimmAdapter
from adapters.levels import Level, format_levels, is_token_model
from adapters.openmmlab.config_tree import WRAPPERS, Node, drop_pretrained, find_owner, type_name
from adapters.openmmlab.fit.consumers import ChannelSetting, find_channel_settings, list_necks
from adapters.openmmlab.fit.dilation import follow_dilation
from adapters.openmmlab.fit.habits import carry_over
from adapters.openmmlab.fit.images import follow_weights
from adapters.openmmlab.fit.original import Original, probe_original
from adapters.openmmlab.fit.plan import Plan, plan_as_asked, plan_levels
from adapters.openmmlab.fit.rewrite import bypass_rescaling_neck, write_levels
from adapters.trunk.build import build_without_data
from adapters.trunk.hosted_models import has_weights

#: Optimiser constructors of mmdet and mmseg that number the layers of certain backbones.
LAYER_DECAYS = ("LearningRateDecayOptimizerConstructor", "LayerDecayOptimizerConstructor")

#: Channels of a bridge's maps where the config lets us choose them.
BRIDGE_CHANNELS = 256


def fit_backbone(cfg: Any, model_name: str, overrides: Mapping[str, Any] = {}, **adapter_options: Any) -> list[str]:
    """Make a timm model the backbone of a config, in place, and fit its neck and heads to the levels.

    The config's own backbone is built and run once on a small image, without weights, to learn which channels and
    strides its neck and heads expect. The timm model gets the same strides, through a pyramid if it has one stride
    only, and every ``in_channels`` that reads them is rewritten. Where that cannot be, a ``LevelBridge`` goes between.
    Frozen stages and the like are carried over; with pretrained weights, images are normalised as these expect.

    Args:
        cfg: an mmengine ``Config`` of mmdet or mmseg, whose modules are registered. Changed in place.
        model_name: any timm model name.
        overrides: settings of the config by dotted keys, which have the last word; those of the new backbone, such as
            ``model.backbone.weights``, count when habits and images are fitted.
        adapter_options: keyword arguments of the adapter. ``weights`` is ``'timm'`` by default where the config's own
            backbone starts from pretrained weights and timm has some, ``None`` where it starts from scratch.

    Returns:
        A line for each change.

    Raises:
        ValueError: the model is unknown, an option is not allowed, or the config's backbone cannot be swapped.
    """
    scope = cfg.get("default_scope") or "mmdet"
    owner, place = find_owner(cfg.model)
    key = "backbone"
    if wrapped := type_name(owner[key]) in WRAPPERS:
        owner, place, key = owner[key], f"{place}.{key}", "backbone_cfg"
    adapter = build_without_data(lambda: TimmAdapter(model_name, **adapter_options))
    original = probe_original(owner[key], scope)
    former = owner[key][0] if isinstance(owner[key], list) else owner[key]
    full, options = adapter, dict(adapter_options)
    lines = _decide_weights(options, model_name, cfg.model, owner, key)
    if original.in_channels != 3:
        options.setdefault("in_channels", original.in_channels)
    adapter, changes = follow_dilation(adapter, options, original, f"{place}.{key}")
    lines += changes

    asked = not {"out_indices", "pyramid"}.isdisjoint(adapter_options)
    expected = original.levels
    if not is_token_model(adapter.levels if asked else adapter.stage_levels):
        expected, changes = bypass_rescaling_neck(owner, place, expected)
        lines += changes
    settings = [] if wrapped else find_channel_settings(owner, place, len(expected))
    read = sorted({position for setting in settings for position in setting.read}) or range(len(expected))
    stride_of_position = {position: expected[position].stride for position in read}
    reason = _why_maps_are_fixed(original, expected, settings)
    strides_matter = scope != "mmseg" or reason is not None
    if asked:
        plan = plan_as_asked(adapter.levels, stride_of_position, strides_matter)
    else:
        plan = plan_levels(adapter.stage_levels, stride_of_position, expected, strides_matter)
        options.update(plan.options)
        adapter = build_without_data(lambda: TimmAdapter(model_name, **options))
    owner[key] = ConfigDict(type="TimmAdapter", model_name=model_name, **options)

    if reason:  # the maps must be like the former ones, all of them
        target = dict(enumerate(expected))
    elif reason := _why_levels_do_not_fit(settings, plan, adapter.levels, stride_of_position):
        target = {position: Level(BRIDGE_CHANNELS, stride) for position, stride in stride_of_position.items()}
        lines += write_levels(settings, target)
    else:
        lines += write_levels(settings, {position: adapter.levels[index] for position, index in plan.index_of.items()})
    if reason:
        lines.append(f"{place}: a LevelBridge gives {format_levels(list(target.values()))}, because {reason}")
        _insert_bridge(owner, place, key, _make_bridge(adapter.levels, list(target.values()), original))
    lines += _drop_layer_decay(cfg, original)
    _import_adapters(cfg)

    where = slot = f"{place}.{key}"
    if isinstance(owner[key], list):  # a bridge stands behind the adapter
        slot = f"{where}.0"
    wishes = {
        slot + name[len(where) :] if name.startswith(f"{where}.") else name: overrides[name] for name in overrides
    }
    chosen = {name[len(slot) + 1 :].partition(".")[0] for name in wishes if name.startswith(f"{slot}.")}
    cfg.merge_from_dict(wishes)
    backbone = _node_at(cfg, slot)
    if backbone.get("weights") is None and "weights" not in {*adapter_options, *chosen} and has_weights(model_name):
        lines.append(
            f"{where} starts from scratch, as the config's own; `--cfg-options {slot}.weights=timm` starts it from "
            "timm's weights, and has the images normalised for them"
        )
    habits = carry_over(former, backbone, full, adapter, {*adapter_options, *chosen}, scope)
    lines += [f"{where}: {line}" for line in habits]
    lines += follow_weights(cfg, backbone, scope)
    cfg.merge_from_dict(wishes)
    return [_headline(where, original, _node_at(cfg, slot), adapter), *lines]


def _node_at(cfg: Any, place: str) -> Any:
    """Return the part of a config at a place such as ``'model.backbone'``, or ``'model.backbone.backbone_cfg.0'``."""
    node = cfg
    for key in place.split("."):
        node = node[int(key)] if isinstance(node, list) else node[key]
    return node


def _decide_weights(options: dict[str, Any], model_name: str, model: Node, owner: Node, key: str) -> list[str]:
    """Set the former backbone's weights aside, and choose the new one's where the caller has not."""
    dropped = drop_pretrained(owner[key])
    for node in (model, owner):  # mmseg's models hold `pretrained` beside the backbone
        if isinstance(node.get("pretrained"), str):
            dropped.append(node["pretrained"])
            node["pretrained"] = None
    lines = [f"weights of the former backbone set aside: {source}" for source in dict.fromkeys(dropped)]
    if "weights" not in options and "init_cfg" not in options:
        available = has_weights(model_name)
        options["weights"] = "timm" if dropped and available else None
        if dropped and not available:
            lines.append(f"timm has no pretrained weights for {model_name}: it starts from scratch")
    return lines


def _why_maps_are_fixed(
    original: Original, expected: Sequence[Level], settings: Sequence[ChannelSetting]
) -> str | None:
    """Say why the maps must have the former channels and strides; None if the settings can be rewritten."""
    if not settings:
        return "the part that reads the maps has its channels in its own code"
    if original.class_tokens:
        return f"its readers expect the class tokens that {original.name} gives, for which the maps' means stand"
    if original.single_in_eval is not None:
        return f"its head expects a single map in eval mode, as {original.name} gives it"
    for setting in settings:
        if setting.fixed:
            return f"{setting.place}.{setting.key}={list(setting.channels)} is fixed: {setting.fixed}"
        known = tuple(expected[position].channels for position in setting.positions)
        if setting.channels != known:
            name = f"{setting.place}.{setting.key}"
            return f"{name}={list(setting.channels)} is not what {original.name} gives, {list(known)}"
    return None


def _why_levels_do_not_fit(
    settings: Sequence[ChannelSetting], plan: Plan, levels: Sequence[Level], stride_of_position: Mapping[int, int]
) -> str | None:
    """Say why the settings cannot take the levels as they are; None if they can."""
    if not plan.exact:
        needed, given = list(stride_of_position.values()), [level.stride for level in levels]
        return f"strides {needed} are needed and the model gives {given}"
    for setting in settings:
        channels = [levels[plan.index_of[position]].channels for position in setting.read]
        if not setting.can_take(channels):
            return f"{setting.place}.{setting.key} is one number and the levels have {channels} channels"
    return None


def _make_bridge(levels: Sequence[Level], target: Sequence[Level], original: Original) -> ConfigDict:
    bridge = ConfigDict(
        type="LevelBridge",
        in_channels=[level.channels for level in levels],
        in_strides=[level.stride for level in levels],
        out_channels=[level.channels for level in target],
        out_strides=[level.stride for level in target],
    )
    if original.single_in_eval is not None:
        bridge.single_in_eval = original.single_in_eval
    if original.class_tokens:
        bridge.class_tokens = True
    return bridge


def _insert_bridge(owner: Node, place: str, key: str, bridge: ConfigDict) -> None:
    if key == "backbone":
        owner["neck"] = [bridge, *(neck for _, neck in list_necks(owner, place))]
    else:  # mmengine builds a list of modules as a sequence
        owner[key] = [owner[key], bridge]


def _headline(place: str, original: Original, backbone: Node, adapter: BackboneAdapter) -> str:
    options = ", ".join(f"{key}={value!r}" for key, value in backbone.items() if key not in ("type", "model_name"))
    return (
        f"{place}: {original.name} ({format_levels(original.levels)}) -> {adapter.model_name} "
        f"({format_levels(adapter.levels)}) with {options}"
    )


def _drop_layer_decay(cfg: Any, original: Original) -> list[str]:
    """Leave out a layer-wise decay of the learning rate that knows the former backbone's layers only."""
    wrapper = cfg.get("optim_wrapper") or {}
    if wrapper.get("constructor") not in LAYER_DECAYS:
        return []
    name = wrapper.pop("constructor")
    for setting in ("num_layers", "layer_decay_rate", "decay_rate", "decay_type"):
        (wrapper.get("paramwise_cfg") or {}).pop(setting, None)
    return [
        f"optim_wrapper.constructor: {name} left out, since it knows the layers of {original.name} and its like only"
    ]


def _import_adapters(cfg: Any) -> None:
    """Have other tools that load the config register the adapters too."""
    imports = cfg.get("custom_imports") or {}
    modules = imports.get("imports") or []
    modules = [modules] if isinstance(modules, str) else list(modules)
    if "adapters" not in modules:
        allow = bool(imports.get("allow_failed_imports", False))
        cfg.custom_imports = {"imports": [*modules, "adapters"], "allow_failed_imports": allow}
