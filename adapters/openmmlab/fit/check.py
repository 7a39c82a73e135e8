"""Comparing a backbone of ours with what reads its levels, before training starts."""

import copy
from collections.abc import Sequence
from typing import Any

from mmengine.registry import MODELS, DefaultScope

from adapters.levels import Level, format_levels
from adapters.openmmlab.fit.config_tree import Node, find_owner, type_name
from adapters.openmmlab.fit.consumers import find_readers, list_necks

#: Types whose levels can be asked for once they are built.
OUR_NECKS = ("LevelBridge", "SimpleFeaturePyramid", "TapPyramid")
#: Where the modules come from whose settings we know how to read.
KNOWN_PACKAGES = ("adapters", "mmdet", "mmseg")


def check_fit(cfg: Any) -> None:
    """Check that neck and heads of a config expect the channels that its timm backbone gives.

    Configs whose backbone is not one of ours, and modules of other packages, are passed over.

    Args:
        cfg: an mmengine ``Config`` of mmdet or mmseg, whose modules are registered. Not changed.

    Raises:
        ValueError: something does not fit; the message has both lists of channels. Or the backbone's own settings
            are wrong.
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
        levels = MODELS.build(copy.deepcopy(backbone)).levels
        source = f"{place}.backbone ({backbone.get('model_name')})"
        necks = list_necks(owner, place)
        while necks and type_name(necks[0][1]) in OUR_NECKS:
            where, neck = necks[0]
            _compare_first(owner, place, levels, source, necks, scope)
            levels = MODELS.build(copy.deepcopy(neck)).levels
            source = f"{where} ({type_name(neck)})"
            necks = necks[1:]
        _compare_first(owner, place, levels, source, necks, scope)


def _compare_first(
    owner: Node, place: str, levels: Sequence[Level], source: str, necks: list[tuple[str, Node]], scope: str
) -> None:
    given = f"{source} gives {[level.channels for level in levels]} ({format_levels(levels)})"
    for reader in find_readers(owner, place, len(levels), necks):
        if not reader.comparable or not _module(reader.node, scope).startswith(KNOWN_PACKAGES):
            continue
        setting, channels = f"{reader.place}.{reader.key}", list(reader.channels)
        expected = [levels[position].channels for position in reader.positions]
        if channels != expected:
            raise ValueError(
                f"{setting}={reader.node[reader.key]} does not fit: it reads {channels}, and {given}. "
                f"Set {setting}={expected[0] if isinstance(reader.node[reader.key], int) else expected}, or have "
                "everything fitted with `--backbone NAME`."
            )


def _module(node: Node, scope: str) -> str:
    """The Python module that the type of a config's node comes from; empty if it is not registered."""
    kind = node.get("type")
    if isinstance(kind, str):
        with MODELS.switch_scope_and_registry(scope) as registry:
            kind = registry.get(kind)
    return getattr(kind, "__module__", "")
