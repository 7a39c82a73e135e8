"""Counting parameters and multiply-adds of the complete detector or segmentor of a config."""

import copy
from typing import Any

import torch
from mmdet.models import RPNHead, SingleRoIExtractor
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS
from mmengine.structures import InstanceData
from torch import Tensor, nn

from adapters.batches import batch_sizes
from adapters.describe.counting import Count, count
from adapters.openmmlab.config_tree import Node, drop_pretrained, find_owner

#: ``(H, W)`` where a config does not say at which size its images are tested.
USUAL_SIZES = {"mmdet": (800, 1333), "mmseg": (512, 512)}

#: Boxes that the second stage of a detector classifies where the config does not say.
USUAL_PROPOSALS = 1000


def count_config(cfg: Config, size: tuple[int, int] | None = None) -> Count:
    """Count the model of a config in test mode, which leaves out computations that only training needs.

    The second stage of a detector sees as many proposals as ``test_cfg.rpn.max_per_img`` allows, and its mask head 100
    boxes, as mmdet's own counter has it. Auxiliary heads have parameters and compute nothing.

    Args:
        cfg: of mmdet or mmseg, whose modules are registered. Not changed.
        size: ``(H, W)`` of the image as the model sees it; default: :func:`image_size`.

    Raises:
        ValueError: the model cannot be built or run.
    """
    return build_and_count(cfg, size)[1]


def build_and_count(cfg: Config, size: tuple[int, int] | None = None) -> tuple[nn.Module, Count]:
    """Build the model of a config, on the meta device where possible, and count it as :func:`count_config` does."""
    size = size or image_size(cfg)
    scope = cfg.default_scope
    config = copy.deepcopy(cfg.model)
    drop_pretrained(config)
    channels = _image_channels(config)

    def count_on(device: str) -> tuple[nn.Module, Count]:
        with torch.device(device):
            model = revert_sync_batchnorm(MODELS.build(copy.deepcopy(config))).eval()  # building changes configs
        return model, count(model, size, lambda image: _run(model, scope, image), channels)

    try:
        return count_on("meta")
    except Exception:
        # Something on the way reads values, or is an operator of mmcv's that has no meta kernel. Whatever is wrong
        # with the model itself comes up again.
        pass
    try:
        return count_on("cpu")
    except Exception as error:
        raise ValueError(
            f"the model of {cfg.filename} cannot be run on an image of {size[0]} x {size[1]}: "
            f"{type(error).__name__}: {error}. Give another size with --size."
        ) from error


def image_size(cfg: Config) -> tuple[int, int]:
    """Return ``(H, W)`` of a config's images: mmseg's crop, or mmdet's test scale, the long side across, padded."""
    scope = cfg.default_scope
    if scope == "mmseg":
        side = cfg.get("crop_size") or USUAL_SIZES[scope]
        return (side, side) if isinstance(side, int) else (side[0], side[1])
    dataset = (cfg.get("test_dataloader") or {}).get("dataset") or {}
    scales = [step["scale"] for step in dataset.get("pipeline") or () if step.get("scale") and "Resize" in step["type"]]
    scale = scales[0] if scales else USUAL_SIZES[scope]
    height, width = sorted((scale, scale) if isinstance(scale, int) else scale)
    divisor = (cfg.model.get("data_preprocessor") or {}).get("pad_size_divisor", 1)
    return -(-height // divisor) * divisor, -(-width // divisor) * divisor


def _image_channels(model: Node) -> int:
    """Return the channels of the images that a model's backbone takes."""
    try:
        backbone = find_owner(model)[0]["backbone"]
    except ValueError:
        return 3
    return (backbone[0] if isinstance(backbone, list) else backbone).get("in_channels", 3)


def _run(model: Any, scope: str, image: Tensor) -> None:
    """Compute a prediction of an image ``(1, C, H, W)`` up to, but without, the sorting of boxes."""
    with batch_sizes(others_are_whole=True):
        _predict(model, scope, image)


def _predict(model: Any, scope: str, image: Tensor) -> None:
    size = (image.shape[-2], image.shape[-1])
    meta = {
        "img_shape": size,
        "ori_shape": size,
        "pad_shape": size,
        "batch_input_shape": size,
        "scale_factor": (1.0, 1.0),
        "flip": False,
    }
    if scope == "mmseg":
        model.encode_decode(image, [meta])
        return
    sample = DetDataSample(metainfo=meta)
    if isinstance(getattr(model, "rpn_head", None), RPNHead) and hasattr(model, "roi_head"):
        _run_two_stages(model, image, sample)
    else:
        model(image, [sample], mode="tensor")


def _run_two_stages(model: Any, image: Tensor, sample: DetDataSample) -> None:
    """Run a two-stage detector on a fixed number of proposals, since its own mean nothing without weights."""
    maps = model.extract_feat(image)
    model.rpn_head(maps)
    if getattr(model, "semantic_head", None) is not None:
        model.semantic_head(maps)
    settings = (model.test_cfg or {}).get("rpn") or {}
    height, width = image.shape[-2:]
    box = torch.tensor([0.0, 0.0, width / 4, height / 4], device=image.device)
    boxes = box.expand(settings.get("max_per_img", USUAL_PROPOSALS), 4)
    if image.is_meta:
        _skip_roi_sampling(model)
    model.roi_head.forward(maps, [InstanceData(bboxes=boxes)], [sample])


def _skip_roi_sampling(model: nn.Module) -> None:
    """Replace RoIAlign, which multiplies nothing by weights and has no meta kernel, by maps of the right shape."""
    for module in model.modules():
        if isinstance(module, SingleRoIExtractor):
            module.forward = _sampled(module)


def _sampled(extractor: SingleRoIExtractor) -> Any:
    def forward(maps: Any, rois: Tensor, roi_scale_factor: float | None = None) -> Tensor:
        del roi_scale_factor
        return maps[0].new_empty(len(rois), extractor.out_channels, *extractor.roi_layers[0].output_size)

    return forward
