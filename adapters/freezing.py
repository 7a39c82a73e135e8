"""Frozen stages and frozen normalisation, with OpenMMLab's meaning: no gradient, and eval mode that ``train()`` keeps."""

from collections.abc import Sequence

from timm.models import group_parameters
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def trunk_parts(trunk: nn.Module) -> list[list[str]]:
    """Names of the trunk's parameters, stem first, then one list per stage (or per block of a token model).

    The grouping is timm's own (``group_matcher``), the one that layer-wise learning-rate decay uses.
    """
    groups = group_parameters(trunk, trunk.group_matcher(coarse=True))
    return [groups[index] for index in sorted(groups)]


def freeze(module: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    """Take the named parameters out of training.

    Returns:
        The modules that hold nothing but frozen parameters: those that must stay in eval mode.
    """
    frozen = set(names)
    for name, parameter in module.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
    return [
        child
        for prefix, child in module.named_modules()
        if (held := [f"{prefix}.{name}" if prefix else name for name, _ in child.named_parameters()])
        and frozen.issuperset(held)
    ]


def batch_norms(module: nn.Module) -> list[nn.Module]:
    """The layers that ``norm_eval`` keeps in eval mode: those with running statistics."""
    return [child for child in module.modules() if isinstance(child, _BatchNorm)]
