"""The graphs that a detector or segmentor is exported as, and the refusal of heads that have none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Graph:
    """A part of a model that is exported to a file of its own.

    Attributes:
        name: ``'model'``, which takes images, or of the second stage ``'boxes'`` and ``'masks'``.
        module: takes the inputs in their order, and returns the outputs as a tuple.
        inputs: names: ``'image'`` ``(B, C, H, W)``, normalised and padded; ``'rois'`` ``(N, 5)``; of maps of the first
            graph.
        outputs: names.
        given: outputs that are choices between near equals, which the module takes as well, to compute what follows.
    """

    name: str
    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    given: tuple[str, ...] = ()


@dataclass(frozen=True)
class Whole:
    """A detector or segmentor as graphs that end at its heads' raw outputs.

    Attributes:
        kind: of decoding, the name of a method of ``decoding.Model``.
        task: what it predicts: ``'boxes'``, ``'instances'``, ``'panoptic'`` or ``'label map'``.
        head: the class of the head.
        graphs: the first takes images.
        decoding: the settings of ``adapters.export.decoding`` for this kind.
        masks_padding: the model tells padding from image, which the graph does not.
        multiple: of which the sides of images must be.
        cells: the least number of cells that an image must have, over all maps of the neck.
    """

    kind: str
    task: str
    head: str
    graphs: tuple[Graph, ...]
    decoding: Mapping[str, Any] = field(default_factory=dict)
    masks_padding: bool = False
    multiple: int = 1
    cells: int = 0


def refuse(what: str, why: str) -> ValueError:
    """Make the error for a head that has no exported form."""
    return ValueError(
        f"{what} cannot be exported: {why}. Export its backbone alone (--backbone NAME --weights CHECKPOINT), and "
        "decode its maps with your own code."
    )


def require_decoding_of(head: nn.Module, base: type, methods: Sequence[str]) -> None:
    """Require that a head decodes its outputs as its base class does, which is what ``decoding`` computes.

    Raises:
        ValueError: it has its own method.
    """
    for name in methods:
        own = getattr(type(head), name)
        if own is not getattr(base, name):
            raise refuse(type(head).__name__, f"it decodes its outputs by {own.__qualname__}, not by {base.__name__}'s")


def nms_settings(settings: Any, what: str) -> dict[str, Any]:
    """Read a config's ``nms`` as ``decoding`` takes it.

    Raises:
        ValueError: it is of another type, or has an option that ``decoding`` does not know.
    """
    if settings is None:
        return {"iou_threshold": None, "class_agnostic": False}
    options = dict(settings)
    kind = options.pop("type", "nms")
    threshold, agnostic = options.pop("iou_threshold", None), bool(options.pop("class_agnostic", False))
    options.pop("split_thr", None)  # how it is computed
    if kind != "nms" or threshold is None or options:
        raise refuse(
            what,
            f"its test_cfg has nms={dict(settings)}, and only dict(type='nms', iou_threshold=..., class_agnostic=...) "
            "is decoded; set that with --cfg-options",
        )
    return {"iou_threshold": float(threshold), "class_agnostic": agnostic}
