# Runs on COCO, counted in iterations.
_base_ = "./detection.py"

default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=5000, max_keep_ckpts=3))
log_processor = dict(window_size=50)
