#!/usr/bin/env python
"""Print the parameter groups that a config's optimiser will have: layers, learning rates, weight decays.

python tools/layer_decay.py CONFIG
python tools/layer_decay.py mmdet::retinanet_r50_fpn_1x_coco --backbone twins_svt_small --decay-rate 0.8 --names
"""

from adapters.commands.errors import one_line_errors
from adapters.registry import require_mmengine

if __name__ == "__main__":
    with one_line_errors():
        require_mmengine("tools/layer_decay.py")
        from adapters.commands.layer_decay import print_layer_decay

        print_layer_decay()
