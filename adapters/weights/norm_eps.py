"""The epsilon of Twins' norms, which differs between projects and is part of what a checkpoint means.

timm and the original code build the norms of the blocks, and those after the stages, with 1e-6; mmseg and mmpretrain
with 1e-5. The outputs of a Twins-SVT-S differ by up to 5e-6 of their size between the two (2e-4 absolute), so a
checkpoint of mmseg's brings its epsilon along. An adapter that has another one than timm's writes it into its state
dict, where tests and resumed runs find it without the file that it came from.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from adapters.weights.formats import TIMM
from adapters.weights.report import Report

if TYPE_CHECKING:
    from adapters.base import BackboneAdapter

KEY = "norm_eps"

_NORMS = re.compile(r"trunk\.(blocks\.\d+\.\d+\.norm[12]|norm)|stage_norms\.\d+")


def norms(adapter: nn.Module) -> list[nn.LayerNorm]:
    """The norms whose epsilon is meant; none but in Twins."""
    return [
        module
        for name, module in adapter.named_modules()
        if isinstance(module, nn.LayerNorm) and _NORMS.fullmatch(name)
    ]


def carry_over(adapter: BackboneAdapter, eps: float, report: Report) -> None:
    """Give the norms the epsilon that the checkpoint's project has, and say so where it is not what they had."""
    changed = [norm for norm in norms(adapter) if norm.eps != eps]
    for norm in changed:
        norm.eps = eps
    if changed:
        report.note("set", "eps", f"{eps:g} in {len(changed)} norms, as in the checkpoint's project")


def keep_in_state_dict(adapter: BackboneAdapter) -> None:
    """Have the state dict of a Twins adapter tell the epsilon where it is not timm's."""
    if norms(adapter):
        adapter.register_state_dict_post_hook(_save)
        adapter.register_load_state_dict_pre_hook(_restore)


def _save(adapter: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    eps = norms(adapter)[0].eps
    if eps != TIMM.norm_eps:
        state[f"{prefix}{KEY}"] = torch.tensor(eps, dtype=torch.float64)


def _restore(adapter: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    if any(key.startswith(prefix) for key in state):
        eps = state.pop(f"{prefix}{KEY}", None)
        for norm in norms(adapter):
            norm.eps = TIMM.norm_eps if eps is None else float(eps)
