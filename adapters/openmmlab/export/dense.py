"""Dense heads of mmdet: what their graph gives, and the settings by which it is decoded."""

from collections.abc import Sequence
from typing import Any

from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder, DistancePointBBoxCoder
from mmdet.models.task_modules.prior_generators import AnchorGenerator, MlvlPointGenerator
from torch import Tensor, nn

from adapters.openmmlab.export.graphs import Graph, Whole, nms_settings, refuse, require_decoding_of

#: What a dense head gives at each level, in the order in which its ``forward`` returns it.
PARTS = ("classes", "boxes", "factor")


class DenseOutputs(nn.Module):
    """Images ``(B, C, H, W)`` -> what the head of a single-stage detector says of the cells of each level.

    The tensors are ``(B, A * classes, h, w)`` for each level, then ``(B, A * 4, h, w)``, then in some heads a factor.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Compute the outputs, ``(B, C, H, W)`` -> as the class says."""
        return flatten(self.model.bbox_head(self.model.extract_feat(image)))


def flatten(outputs: Sequence[Sequence[Tensor]]) -> tuple[Tensor, ...]:
    """Put what a head returns, groups of tensors ``(B, C_i, h, w)``, into one tuple."""
    return tuple(tensor for group in outputs for tensor in group)


def output_names(levels: int, parts: int, prefix: str = "") -> list[list[str]]:
    """Name the outputs of a dense head, level by level: ``[['classes_0', 'boxes_0'], ['classes_1', ...], ...]``."""
    return [[f"{prefix}{part}_{level}" for part in PARTS[:parts]] for level in range(levels)]


def by_part(names: list[list[str]]) -> tuple[str, ...]:
    """Put names in the order in which a head returns its outputs: all levels of a part, then those of the next."""
    return tuple(name for part in zip(*names, strict=True) for name in part)


def describe_dense(model: Any, image: Tensor) -> Whole:
    """Describe a single-stage detector of mmdet.

    Args:
        model: in eval mode.
        image: any ``(B, C, H, W)`` that it takes.

    Raises:
        ValueError: its head decodes its outputs in a way of its own.
    """
    head, name = model.bbox_head, type(model.bbox_head).__name__
    if not isinstance(head, BaseDenseHead):
        raise refuse(name, "it is no dense head of mmdet's")
    methods = ("predict", "predict_by_feat", "_predict_by_feat_single", "_bbox_post_process")
    require_decoding_of(head, BaseDenseHead, methods)
    settings = describe_priors(head, name)
    test = head.test_cfg or {}
    parts = head(model.extract_feat(image))
    names = output_names(len(parts[0]), len(parts))
    decoding = {
        **settings,
        "outputs": names,
        "score_threshold": float(test.get("score_thr", 0)),
        "before_nms": int(test.get("nms_pre", -1)),
        "least_side": float(test.get("min_bbox_size", -1)),
        "most": int(test.get("max_per_img", -1)),
        "nms": nms_settings(test.get("nms"), name),
    }
    graph = Graph("model", DenseOutputs(model), ("image",), by_part(names))
    return Whole("dense", "boxes", name, (graph,), decoding)


def describe_priors(head: Any, name: str) -> dict[str, Any]:
    """Describe the anchors or points of a dense head, and how boxes are made of them.

    Raises:
        ValueError: they are of a kind that ``decoding`` does not know.
    """
    priors, coder = head.prior_generator, head.bbox_coder
    if getattr(head.loss_cls, "custom_cls_channels", False):
        raise refuse(name, f"its loss {type(head.loss_cls).__name__} has scores of its own")
    settings: dict[str, Any] = {
        "channels": int(head.cls_out_channels),
        "softmax": not head.use_sigmoid_cls,
        "strides": [[float(step) for step in stride] for stride in priors.strides],
    }
    if type(coder) is DeltaXYWHBBoxCoder and isinstance(priors, AnchorGenerator):
        return {
            **settings,
            "anchors": [anchors.tolist() for anchors in priors.base_anchors],
            "coder": describe_deltas(coder),
        }
    if type(coder) is DistancePointBBoxCoder and type(priors) is MlvlPointGenerator:
        return {**settings, "offset": float(priors.offset), "coder": {"clip": bool(coder.clip_border)}}
    raise refuse(name, f"its boxes are made of {type(priors).__name__} by {type(coder).__name__}, which is not decoded")


def describe_deltas(coder: DeltaXYWHBBoxCoder) -> dict[str, Any]:
    """Describe a coder of differences to anchors."""
    return {
        "means": [float(value) for value in coder.means],
        "stds": [float(value) for value in coder.stds],
        "clip": bool(coder.clip_border),
        "clamp": float(coder.ctr_clamp) if coder.add_ctr_clamp else None,
    }
