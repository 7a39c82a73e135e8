"""Putting a timm backbone into any mmdet or mmseg config, and checking one that is there.

:func:`fit_backbone` swaps the backbone of a config and fits every consumer of its levels; :func:`check_fit` compares a
backbone of ours with its consumers before training starts.
"""

from adapters.openmmlab.fit.check import check_fit
from adapters.openmmlab.fit.fit import fit_backbone

__all__ = ["check_fit", "fit_backbone"]
