"""Frozen stages and frozen normalisation as OpenMMLab means them: no gradient, and eval mode that ``train()`` keeps."""

from collections.abc import Sequence
from typing import Any

from timm.models import group_parameters
from torch import nn

from adapters.trunk.layer_numbers import WITH_THE_LAST, WITH_THE_STEM


def trunk_parts(trunk: Any) -> list[list[str]]:
    """Group the names of the trunk's parameters, stem first, then one list per stage (or per block of a token model).

    The grouping is timm's own (``group_matcher``), the one that layer-wise learning-rate decay uses; the few models
    without it are grouped by the list that holds their stages. A final norm belongs to the last stage, and so do rotary
    tables that all blocks share.
    """
    if not hasattr(trunk, "group_matcher"):
        return _parts_by_container(trunk)
    try:
        matcher = trunk.group_matcher(coarse=True)
    except AssertionError:  # RDNet's matcher refuses; its only one is of stages
        matcher = trunk.group_matcher(coarse=False)
    groups = group_parameters(trunk, matcher)
    parts: list[list[str]] = [
        [name for name in groups[index] if not name.startswith(WITH_THE_STEM + WITH_THE_LAST)]
        for index in sorted(groups)
    ]
    parts = [part for part in parts if part]
    names = [name for group in groups.values() for name in group]
    parts[0] += [name for name in names if name.startswith(WITH_THE_STEM)]
    parts[-1] += [name for name in names if name.startswith(WITH_THE_LAST)]
    return parts


def _parts_by_container(trunk: nn.Module) -> list[list[str]]:
    """Take the children of the list with the most parameters as the stages, and what stands before them as the stem."""
    lists = {name: child for name, child in trunk.named_children() if isinstance(child, nn.Sequential | nn.ModuleList)}
    holder = max(lists, key=lambda name: sum(parameter.numel() for parameter in lists[name].parameters()))
    stages = [f"{holder}.{name}." for name, _ in lists[holder].named_children()]
    children = [name for name, _ in trunk.named_children()]
    later = tuple(f"{name}." for name in children[children.index(holder) + 1 :])
    names = [name for name, _ in trunk.named_parameters()]
    parts = [[name for name in names if name.startswith(stage)] for stage in stages]
    parts[-1] += [name for name in names if name.startswith(later)]
    grouped = {name for part in parts for name in part}
    return [[name for name in names if name not in grouped], *parts]


def freeze_stages(module: nn.Module, parts: Sequence[Sequence[str]], frozen_stages: int, model_name: str) -> list[str]:
    """Take the stem and the first stages out of training.

    Args:
        module: changed in place.
        parts: names of its parameters: the stem, then one list per stage.
        frozen_stages: 0 for the stem alone, n for n stages more.
        model_name: the backbone, for messages.

    Returns:
        As :func:`freeze`.

    Raises:
        ValueError: there are fewer stages.
    """
    if frozen_stages >= len(parts):
        raise ValueError(
            f"frozen_stages={frozen_stages}, but {model_name} as built here has a stem and {len(parts) - 1} "
            f"stages: use -1 (nothing), 0 (the stem) .. {len(parts) - 1} (everything)."
        )
    return freeze(module, [name for part in parts[: frozen_stages + 1] for name in part])


def freeze(module: nn.Module, names: Sequence[str]) -> list[str]:
    """Take the named parameters out of training.

    Returns:
        The names of the modules that hold nothing else: those that ``train()`` must leave in eval mode.
    """
    frozen = set(names)
    for name, parameter in module.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
    eval_modules = []
    for prefix, child in module.named_modules():
        held = [f"{prefix}.{name}" for name, _ in child.named_parameters()] if prefix else []
        if (held and frozen.issuperset(held)) or _embedding(prefix) in eval_modules:
            eval_modules.append(prefix)
    return eval_modules


def fixed_names(module: nn.Module) -> list[str]:
    """Name the parameters that do not train."""
    return [name for name, parameter in module.named_parameters() if not parameter.requires_grad]


def _embedding(name: str) -> str:
    """Return the patch embedding that a dropout comes after; timm keeps the two side by side."""
    parent, _, own = name.rpartition(".")
    if own in ("pos_drop", "patch_drop"):
        return f"{parent}.patch_embed"
    return name.replace("pos_drops.", "patch_embeds.") if ".pos_drops." in name else ""


def batch_norms(module: nn.Module) -> list[nn.Module]:
    """List the layers that ``norm_eval`` keeps in eval mode: those with running statistics, also mmcv's SyncBN."""
    return [child for child in module.modules() if "running_mean" in child._buffers]
