# Runs on COCO, counted in epochs.
_base_ = "./detection.py"

default_hooks = dict(
    logger=dict(interval=50, log_metric_by_epoch=True),
    checkpoint=dict(by_epoch=True, interval=1, max_keep_ckpts=3),
)
log_processor = dict(window_size=50, by_epoch=True)
