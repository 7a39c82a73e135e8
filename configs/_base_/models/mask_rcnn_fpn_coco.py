# Mask R-CNN for the 80 classes of COCO.
_base_ = "./mask_rcnn_fpn.py"

model = dict(roi_head=dict(bbox_head=dict(num_classes=80), mask_head=dict(num_classes=80)))
