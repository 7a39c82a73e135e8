"""The graphs of the model of a config, whatever its kind."""

import copy
import dataclasses
from typing import Any

import torch
from mmdet.models import DINO, MaskFormer, SingleStageDetector, TwoStageDetector
from mmengine.model import revert_sync_batchnorm
from mmseg.models import EncoderDecoder
from torch import Tensor, nn

from adapters.openmmlab.export.dense import describe_dense
from adapters.openmmlab.export.dino import describe_dino
from adapters.openmmlab.export.graphs import Whole, refuse
from adapters.openmmlab.export.mask_queries import describe_mask_former
from adapters.openmmlab.export.segmentors import describe_segmentor
from adapters.openmmlab.export.two_stage import describe_two_stage

#: Numbers of which the sides of images may have to be multiples.
MULTIPLES = (1, 2, 4, 8, 16, 32, 64, 128)
#: The least side of an image on which a model is tried.
SMALL = 64


def as_graphs(model: nn.Module) -> tuple[nn.Module, Whole]:
    """Turn a detector or segmentor into graphs.

    Args:
        model: of mmdet or mmseg. Not changed: the graphs have a copy.

    Returns:
        The copy, in eval mode, and its graphs.

    Raises:
        ValueError: the model, its head or what is between cannot be exported.
    """
    own: Any = revert_sync_batchnorm(copy.deepcopy(model)).eval().requires_grad_(False)
    backbone = getattr(own, "backbone", None)
    if getattr(backbone, "batch_padding", None):
        raise refuse(
            type(model).__name__,
            "its backbone has batch_padding='exact', and no graph knows which pixels are padding; set "
            "--cfg-options model.backbone.batch_padding=None",
        )
    multiple, image = _find_multiple(own, getattr(backbone, "in_channels", 3))
    return own, dataclasses.replace(_describe(own, image), multiple=multiple)


def _describe(own: Any, image: Tensor) -> Whole:
    """Describe a model by its kind."""
    if isinstance(own, EncoderDecoder):
        return describe_segmentor(own)
    if isinstance(own, DINO):
        return describe_dino(own)
    if isinstance(own, MaskFormer):
        return describe_mask_former(own)
    if isinstance(own, TwoStageDetector):
        return describe_two_stage(own, image)
    if isinstance(own, SingleStageDetector):
        return describe_dense(own, image)
    raise refuse(type(own).__name__, "it is neither a detector nor a segmentor of a kind that is known here")


def _find_multiple(own: Any, channels: int) -> tuple[int, Tensor]:
    """Find of what the sides of images must be multiples; return it with the smallest image that was tried.

    Necks that double a map to put it beside a finer one (CSPNeXtPAFPN) need that no map was rounded up.
    """
    for multiple in MULTIPLES:
        least = max(-(-SMALL // multiple), 3)
        sides = [multiple * (count + 1 - count % 2) for count in (least, least + 2)]
        image = torch.zeros(1, channels, *sides)
        try:
            own.extract_feat(image)
        except RuntimeError as error:
            if multiple == MULTIPLES[-1]:
                raise refuse(type(own).__name__, f"it runs at none of the sizes that were tried ({error})") from error
            continue
        return multiple, image
    raise AssertionError("the last multiple was tried")
