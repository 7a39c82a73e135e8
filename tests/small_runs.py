"""Configs of a detector and a segmentor that train in a second, for tests of the commands."""

from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
TRUNK = {"depths": [1, 1, 1, 1], "embed_dims": [16, 32, 64, 128]}

COMMON = """
train_cfg = dict(type="IterBasedTrainLoop", max_iters=4, val_interval=4)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=1e-4))
default_hooks = dict(checkpoint=dict(interval=2), logger=dict(interval=1))
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False, dataset=dict(data_root=data_root))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
visualizer = dict(name="{name}")  # mmengine keeps one per name and process
"""

DETECTION = (
    """
_base_ = [
    "{repository}/configs/_base_/models/retinanet_fpn.py",
    "{repository}/configs/_base_/datasets/shapes_detection.py",
    "{repository}/configs/_base_/runtime/detection.py",
]
data_root = "{data_root}/"
model = dict(
    backbone=dict(model_name="twins_svt_small", trunk={trunk}),
    neck=dict(in_channels=[16, 32, 64, 128], out_channels=32),
    bbox_head=dict(in_channels=32, feat_channels=32, stacked_convs=1),
    test_cfg=dict(nms_pre=20, score_thr=0.0, max_per_img=5),
)
val_evaluator = dict(ann_file=data_root + "annotations/instances_val.json")
test_evaluator = val_evaluator
"""
    + COMMON
)

SEGMENTATION = (
    """
_base_ = [
    "{repository}/configs/_base_/datasets/shapes_semantic.py",
    "{repository}/configs/_base_/runtime/segmentation.py",
]
data_root = "{data_root}/"
norm_cfg = dict(type="SyncBN", requires_grad=True)
model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(type="SegDataPreProcessor", size=(64, 64), seg_pad_val=255),
    backbone=dict(type="mmdet.ResNet", depth=18, norm_cfg=norm_cfg),
    decode_head=dict(
        type="FCNHead",
        in_channels=[64, 128, 256, 512],
        in_index=[0, 1, 2, 3],
        input_transform="resize_concat",
        channels=16,
        num_convs=1,
        num_classes=7,
        norm_cfg=norm_cfg,
        loss_decode=dict(type="CrossEntropyLoss"),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"),
)
crop_size = (64, 64)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="RandomCrop", crop_size=crop_size),
    dict(type="PackSegInputs"),
]
"""
    + COMMON
    + "train_dataloader['dataset']['pipeline'] = train_pipeline\n"
)


def write_config(text: str, data_root: Path, name: str) -> str:
    """Write one of the configs into the current folder, as ``tiny.py``; return its name.

    Args:
        text: the config.
        data_root: the drawn dataset.
        name: of its visualizer, of which mmengine keeps one per process.
    """
    values: dict[str, Any] = {"repository": REPOSITORY, "data_root": data_root, "trunk": TRUNK, "name": name}
    Path("tiny.py").write_text(text.format(**values))
    return "tiny.py"
