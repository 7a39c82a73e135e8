# Boxes of COCO 2017 for query detectors: scales and crops of the multi-scale recipe, and images without objects too.
_base_ = "./coco_detection_multiscale.py"

train_dataloader = dict(dataset=dict(filter_cfg=dict(filter_empty_gt=False)))
