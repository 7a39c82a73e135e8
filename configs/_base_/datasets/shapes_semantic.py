# Classes of the shapes dataset pixel by pixel, for mmseg. Draw it with `python tools/make_shapes.py`.
# The label maps count the background as class 0, hence no reduce_zero_label.
dataset_type = "BaseSegDataset"
data_root = "data/shapes/"
metainfo = dict(
    classes=("background", "ellipse", "rectangle", "triangle", "star", "ring", "cross"),
    palette=[
        (0, 0, 0),
        (230, 25, 75),
        (0, 130, 200),
        (245, 130, 48),
        (145, 30, 180),
        (0, 128, 128),
        (60, 180, 75),
    ],
)
crop_size = (128, 128)

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="RandomResize", scale=(192, 160), ratio_range=(0.8, 1.25), keep_ratio=True),
    dict(type="RandomCrop", crop_size=crop_size),
    dict(type="RandomFlip", prob=0.5, direction=["horizontal", "vertical"]),
    dict(type="PackSegInputs"),
]
# Images are tested at their own size.
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        metainfo=metainfo,
        data_prefix=dict(img_path="images/train", seg_map_path="annotations/train"),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        metainfo=metainfo,
        data_prefix=dict(img_path="images/val", seg_map_path="annotations/val"),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
test_evaluator = val_evaluator
