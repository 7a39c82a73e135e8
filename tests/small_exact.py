"""Small models of mmdet and mmseg whose backbones are told the sizes of their images, and batches of mixed sizes."""

import copy
from collections.abc import Sequence
from typing import Any

import small_detectors
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from small_recipes import REPOSITORY
from torch import Tensor, nn

TRUNK = {"layers": [1, 1, 1, 1], "channels": (8, 16, 24, 32)}
CHANNELS = [8, 16, 24, 32]
#: Height and width of the images of a batch, two of which are padded to the same size when they are alone.
SIZES = ((100, 130), (70, 150), (128, 100), (97, 129))
NORMALISATION = dict(mean=[120.0] * 3, std=[60.0] * 3)
TEST = dict(nms_pre=200, min_bbox_size=0, score_thr=0.0, nms=dict(type="nms", iou_threshold=0.5), max_per_img=20)


def backbone(**options: Any) -> dict[str, Any]:
    """A ResNet of levels 4 to 32."""
    options = {"batch_padding": "exact", "out_indices": (1, 2, 3, 4), **options}
    return dict(type="TimmAdapter", model_name="resnet18", trunk=TRUNK, **options)


def _detector(kind: str, **parts: Any) -> dict[str, Any]:
    neck = dict(type="FPN", in_channels=CHANNELS, out_channels=16, num_outs=5)
    images = dict(type="DetDataPreprocessor", **NORMALISATION, pad_size_divisor=32, pad_mask=True)
    return dict(type=kind, data_preprocessor=images, backbone=backbone(), neck=neck, **parts)


def _dense(kind: str, **more: Any) -> dict[str, Any]:
    return dict(type=kind, num_classes=3, in_channels=16, feat_channels=32, stacked_convs=2, **more)


def retinanet() -> dict[str, Any]:
    train = Config.fromfile(REPOSITORY / "configs/_base_/models/retinanet_fpn.py").model.train_cfg
    return _detector("RetinaNet", bbox_head=_dense("RetinaHead"), train_cfg=train, test_cfg=TEST)


def fcos() -> dict[str, Any]:
    return _detector("FCOS", bbox_head=_dense("FCOSHead", strides=[4, 8, 16, 32, 64]), test_cfg=TEST)


def mask_rcnn() -> dict[str, Any]:
    model = copy.deepcopy(small_detectors.two_stage(masks=True).model)
    rpn = dict(nms_pre=100, min_bbox_size=0, max_per_img=20, nms=dict(type="nms", iou_threshold=0.7))
    second = dict(score_thr=0.0, nms=dict(type="nms", iou_threshold=0.5), max_per_img=5, mask_thr_binary=0.5)
    train = Config.fromfile(REPOSITORY / "configs/_base_/models/mask_rcnn_fpn.py").model.train_cfg
    parts = dict(model, test_cfg=dict(rpn=rpn, rcnn=second), train_cfg=train)
    for key in ("type", "backbone", "neck"):
        del parts[key]
    return _detector("MaskRCNN", **parts)


def _recipe(name: str, **changes: Any) -> dict[str, Any]:
    """A transformer of a recipe, on our small backbone."""
    cfg = Config.fromfile(REPOSITORY / f"configs/_base_/models/{name}.py")
    cfg.merge_from_dict(changes)
    cfg.model.backbone = backbone(out_indices=[index + 1 for index in cfg.model.backbone.out_indices])
    return cfg.model


def dino() -> dict[str, Any]:
    layers = {"model.encoder.num_layers": 1, "model.decoder.num_layers": 1}
    queries = {"model.num_queries": 50, "model.test_cfg.max_per_img": 20}
    return _recipe("dino_coco", **layers, **queries, **{"model.neck.in_channels": CHANNELS[1:]})


def mask2former() -> dict[str, Any]:
    head = "model.decode_head"
    changes = {
        f"{head}.in_channels": CHANNELS,
        f"{head}.num_queries": 10,
        f"{head}.pixel_decoder.encoder.num_layers": 1,
        f"{head}.transformer_decoder.num_layers": 1,
    }
    return _recipe("mask2former_ade20k", **changes)


def semantic_fpn() -> dict[str, Any]:
    norm = dict(type="BN")
    head = dict(type="FPNHead", in_channels=[16] * 4, in_index=[0, 1, 2, 3], feature_strides=[4, 8, 16, 32],
                channels=8, num_classes=4, norm_cfg=norm)  # fmt: skip
    neck = dict(type="FPN", in_channels=CHANNELS, out_channels=16, num_outs=4)
    return _segmentor(neck=neck, decode_head=head)


def upernet() -> dict[str, Any]:
    head = dict(type="UPerHead", in_channels=CHANNELS, in_index=[0, 1, 2, 3], pool_scales=(1, 2, 3, 6), channels=8,
                num_classes=4, norm_cfg=dict(type="BN"))  # fmt: skip
    return _segmentor(decode_head=head)


def _segmentor(**parts: Any) -> dict[str, Any]:
    images = dict(type="SegDataPreProcessor", **NORMALISATION, size=(160, 160))
    return dict(
        type="EncoderDecoder",
        data_preprocessor=images,
        backbone=backbone(),
        test_cfg=dict(mode="whole"),
        **parts,
    )


DETECTORS = {"RetinaNet": retinanet, "FCOS": fcos, "Mask R-CNN": mask_rcnn, "DINO": dino}
SEGMENTORS = {"Mask2Former": mask2former, "Semantic FPN": semantic_fpn, "UPerNet": upernet}


def build(model: dict[str, Any], scope: str) -> nn.Module:
    """The model in eval mode, with random weights; some of mmdet's have none before init_weights."""
    torch.manual_seed(0)
    small_detectors.ready(Config(dict(default_scope=scope)))
    built = MODELS.build(Config(dict(model=copy.deepcopy(model))).model).eval()
    built.init_weights()
    return built


def images() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8) for size in SIZES]


def batch(model: Any, scope: str, indices: Sequence[int], training: bool = False) -> dict[str, Any]:
    """Some of the images as the model's preprocessor gives them; mmseg's cannot pad images of several sizes to test."""
    from mmdet.structures import DetDataSample
    from mmseg.structures import SegDataSample
    from mmseg.utils import stack_batch

    kind = DetDataSample if scope == "mmdet" else SegDataSample
    metas = [dict(img_shape=SIZES[i], ori_shape=SIZES[i], scale_factor=(1.0, 1.0)) for i in indices]
    samples = [kind(metainfo=meta) for meta in metas]
    if scope == "mmdet" or len(indices) == 1:
        inputs = [images()[i] for i in indices]
        return model.data_preprocessor(dict(inputs=inputs, data_samples=samples), training)
    singles = [batch(model, scope, [i])["inputs"][0, :, : SIZES[i][0], : SIZES[i][1]] for i in indices]
    stacked, told = stack_batch(singles, size=(160, 160))
    for sample, meta in zip(samples, told, strict=True):
        sample.set_metainfo(meta)
    return dict(inputs=stacked, data_samples=samples)
