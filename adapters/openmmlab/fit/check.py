"""Comparing a backbone of ours with the necks and heads of its config, before training starts."""

import copy
from collections.abc import Sequence
from typing import Any

from mmengine.registry import MODELS, DefaultScope

from adapters.levels import Level, format_levels
from adapters.openmmlab.config_tree import Node, find_owner, type_name
from adapters.openmmlab.fit.consumers import find_channel_settings, list_necks
from adapters.openmmlab.fit.images import warn_unfit
from adapters.openmmlab.fit.pipelines import check_colour_steps
from adapters.trunk.build import build_without_data

#: Types that have ``levels`` once they are built.
OUR_NECKS = ("LevelBridge", "SimpleFeaturePyramid", "TapPyramid")
#: Packages of the modules whose settings are known.
KNOWN_PACKAGES = ("adapters", "mmdet", "mmseg")


def check_fit(cfg: Any) -> None:
    """Check that neck and heads of a config expect the channels that its timm backbone gives; warn about its images.

    Configs whose backbone is not one of ours, and modules of other packages, are passed over.

    Args:
        cfg: an mmengine ``Config`` of mmdet or mmseg, whose modules are registered. Not changed.

    Raises:
        ValueError: something does not fit; the message has both lists of channels. Or the backbone's own settings
            are wrong, or the pipelines work on colours and the backbone takes other channels.
    """
    scope = cfg.get("default_scope") or "mmdet"
    try:
        owner, place = find_owner(cfg.model)
    except ValueError:
        return
    backbone = owner["backbone"]
    if isinstance(backbone, list) or not _module(backbone, scope).startswith("adapters"):
        return
    with DefaultScope.overwrite_default_scope(scope):
        adapter = _build(backbone)
        check_colour_steps(cfg, adapter.in_channels)
        warn_unfit(cfg, adapter)
        levels = adapter.levels
        source = f"{place}.backbone ({backbone.get('model_name')})"
        necks = list_necks(owner, place)
        while necks and type_name(necks[0][1]) in OUR_NECKS:
            where, neck = necks[0]
            _compare_first(owner, place, levels, source, necks, scope)
            levels = _build(neck).levels
            source = f"{where} ({type_name(neck)})"
            necks = necks[1:]
        _compare_first(owner, place, levels, source, necks, scope)


def _build(config: Node) -> Any:
    """Build a backbone or neck of ours without data."""
    return build_without_data(lambda: MODELS.build(copy.deepcopy(config)))


def _compare_first(
    owner: Node, place: str, levels: Sequence[Level], source: str, necks: list[tuple[str, Node]], scope: str
) -> None:
    given = f"{source} gives {[level.channels for level in levels]} ({format_levels(levels)})"
    for setting in find_channel_settings(owner, place, len(levels), necks):
        if not setting.comparable or not _module(setting.node, scope).startswith(KNOWN_PACKAGES):
            continue
        name, value, channels = f"{setting.place}.{setting.key}", setting.node[setting.key], list(setting.channels)
        expected = [levels[position].channels for position in setting.positions]
        if channels != expected:
            raise ValueError(
                f"{name}={value} does not fit: it reads {channels}, and {given}. "
                f"Set {name}={expected[0] if isinstance(value, int) else expected}, or have "
                "everything fitted with `--backbone NAME`."
            )


def _module(node: Node, scope: str) -> str:
    """Find the Python module that defines the type of a config's node; empty if it is not registered."""
    kind = node.get("type")
    if isinstance(kind, str):
        with MODELS.switch_scope_and_registry(scope) as registry:
            kind = registry.get(kind)
    return getattr(kind, "__module__", "")
