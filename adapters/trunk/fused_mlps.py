"""Giving timm's perceptrons the form that oneDNN computes; no class of torch's own is replaced."""

from torch import nn

from adapters.kernels.mlp import FusedMlp, takes_fused_form
from adapters.trunk.surgery import graft


def fuse_mlps(trunk: nn.Module) -> None:
    """Turn every ``timm.layers.Mlp`` below ``trunk`` into a :class:`FusedMlp`; layers, parameters and names stay."""
    for module in trunk.modules():
        if takes_fused_form(module):
            graft(module, FusedMlp)
