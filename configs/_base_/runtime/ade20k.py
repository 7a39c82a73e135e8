# Runs on ADE20K, counted in iterations.
_base_ = "./segmentation.py"

default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=8000, max_keep_ckpts=3))
log_processor = dict(window_size=50)
