"""The recipes under configs/, and what makes each small enough to be trained for one step in a second.

Widths stay, since necks and heads are fitted to them, and so do the heads. What shrinks is the depth of the trunk, and
with it the numbers of blocks that a recipe names; windows, since a small image has few patches; and queries, which must
not outnumber the cells of a small image, and boxes that a second stage looks at.
"""

from pathlib import Path
from typing import Any

from lab.synthetic import shrink_model
from mmengine.config import Config

from adapters.openmmlab.config_tree import children, find_owner
from adapters.trunk.build import timm_module_name

REPOSITORY = Path(__file__).resolve().parents[1]
RECIPES = sorted(
    path for kind in ("detection", "segmentation") for path in (REPOSITORY / "configs" / kind).glob("*.py")
)
PUBLISHED = [path for path in RECIPES if not path.stem.endswith("_shapes")]

#: Depths of the shrunken trunks, by timm's file. Twins-SVT alternates two kinds of block.
DEPTHS: dict[str, dict[str, Any]] = {
    "twins": {"depths": (2, 1, 1, 1)},
    "swin_transformer_v2_cr": {"depths": (2, 1, 1, 1)},
    "convnext": {"depths": (1, 1, 1, 1)},
    "convit": {"depth": 4, "local_up_to_layer": 3},
    "eva": {"depth": 4},
}
FULL_DEPTH, SMALL_DEPTH = 12, 4
SMALL_WINDOW = 3
MAX_PROPOSALS = 16
MAX_DETECTIONS = 10
SIDES = {"mmdet": 96, "mmseg": 64}


def read(path: Path) -> Config:
    return Config.fromfile(path)


def shrink(cfg: Config) -> int:
    """Make a recipe's model small, in place; return the side of the images that suit it."""
    side = SIDES[cfg.default_scope]
    _shrink_backbone(find_owner(cfg.model)[0]["backbone"])
    shrink_model(cfg.model, side)
    _shrink_proposals(cfg.model)
    return side


def _shrink_backbone(backbone: Any) -> None:
    family = timm_module_name(backbone.model_name)
    backbone.trunk = dict(DEPTHS.get(family, {}))  # others are small as they are
    backbone.weights = None
    if "depth" not in backbone.trunk:
        return
    if backbone.get("frozen_stages", -1) >= 0:
        assert backbone.frozen_stages == FULL_DEPTH
        backbone.frozen_stages = SMALL_DEPTH
    if backbone.get("out_indices"):
        backbone.out_indices = tuple(
            index if index < 0 else index * SMALL_DEPTH // FULL_DEPTH for index in backbone.out_indices
        )
    if backbone.get("window_size"):
        assert backbone.global_blocks == (2, 5, 8, 11)
        backbone.window_size = SMALL_WINDOW
        backbone.global_blocks = (1, 3)


def _shrink_proposals(node: Any) -> None:
    for child in children(node):
        _shrink_proposals(child)
    if isinstance(node, dict):
        if "rcnn" in node and "rpn_proposal" in node:
            node["rcnn"]["sampler"]["num"] = MAX_PROPOSALS
        elif "rcnn" in node:
            node["rpn"]["max_per_img"] = MAX_PROPOSALS
            node["rcnn"]["max_per_img"] = MAX_DETECTIONS
