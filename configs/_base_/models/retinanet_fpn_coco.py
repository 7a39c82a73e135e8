# RetinaNet for the 80 classes of COCO, its two coarsest levels made from the backbone's last map, as in PVT and Twins.
_base_ = "./retinanet_fpn.py"

model = dict(neck=dict(add_extra_convs="on_input"), bbox_head=dict(num_classes=80))
