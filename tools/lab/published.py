"""Counts in the publication's way, beside the published ones, for the recipes whose figures stand in the metafile.

Twins' parameters include what training never uses: the backbone's classifier for 1000 classes and its final norm, which
an adapter removes. UPerNet's auxiliary head and the stage norms of SVT are parts of the model here too. How FLOPs were
counted is not published; :data:`WAYS` was found out by reproducing the figures.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from mmengine.config import Config
from torch import nn

from adapters.base import BackboneAdapter
from adapters.describe.counting import Count
from adapters.openmmlab.count_config import build_and_count
from adapters.openmmlab.run import register_scope
from adapters.trunk.build import build_without_data
from adapters.trunk.dilation import without_output_stride
from adapters.trunk.hosted_models import create_timm_model

REPOSITORY = Path(__file__).resolve().parents[2]
METAFILE = REPOSITORY / "configs" / "metafile.yaml"

#: How far, relatively, a count in the publication's way may be from the published one.
PARAMETER_TOLERANCE = 0.01
FLOP_TOLERANCE = 0.05


@dataclass(frozen=True)
class Way:
    """The publication's way of counting FLOPs.

    Attributes:
        size: ``(H, W)`` of the image.
        attention: the products of activations are counted.
    """

    size: tuple[int, int]
    attention: bool


#: Ways by the beginnings of recipes' names.
WAYS: dict[str, Way] = {
    "retinanet_": Way((800, 600), attention=True),
    "mask-rcnn_": Way((800, 600), attention=True),
    "fpn_": Way((512, 512), attention=False),
    "upernet_": Way((512, 512), attention=True),
}


@dataclass(frozen=True)
class Comparison:
    """A recipe's published counts and ours.

    Attributes:
        recipe: its name, that of the config.
        published_parameters: millions.
        published_flops: thousand millions of multiply-adds; None where none is published.
        ours: of the model as it trains, at the publication's image size.
        unused: parameters of the backbone that the publication counts and an adapter removes.
        way: how the publication counts.
    """

    recipe: str
    published_parameters: float
    published_flops: float | None
    ours: Count
    unused: int
    way: Way

    @property
    def parameters(self) -> float:
        """Millions, in the publication's way."""
        return (self.ours.parameters + self.unused) / 1e6

    @property
    def flops(self) -> float:
        """Thousand millions of multiply-adds, in the publication's way."""
        left_out = 0 if self.way.attention else self.ours.attention
        return (self.ours.multiply_adds + self.ours.deconvolution_excess - left_out) / 1e9

    @property
    def parameter_difference(self) -> float:
        """Relative."""
        return self.parameters / self.published_parameters - 1

    @property
    def flop_difference(self) -> float | None:
        """Relative; None where nothing is published."""
        return None if self.published_flops is None else self.flops / self.published_flops - 1

    @property
    def within(self) -> bool:
        """Neither difference is larger than it may be."""
        return (
            abs(self.parameter_difference) <= PARAMETER_TOLERANCE and abs(self.flop_difference or 0) <= FLOP_TOLERANCE
        )


def compare_published(metafile: Path = METAFILE) -> list[Comparison]:
    """Every recipe of a metafile that has a published count, in its order. Schedules of one model are counted once."""
    entries = yaml.safe_load(metafile.read_text())["Models"]
    counted: dict[str, tuple[Count, int]] = {}
    unused: dict[str, int] = {}
    comparisons = []
    for entry in entries:
        metadata: dict[str, Any] = entry["Metadata"]
        published = metadata.get("Published Parameters (M)")
        if published is None:
            continue
        (way,) = (way for beginning, way in WAYS.items() if entry["Name"].startswith(beginning))
        cfg = Config.fromfile(metafile.parents[1] / entry["Config"])
        key = json.dumps(cfg.model.to_dict(), sort_keys=True)
        if key not in counted:
            register_scope(cfg)
            model, ours = build_and_count(cfg, way.size)
            backbone = model.backbone
            assert isinstance(backbone, BackboneAdapter)
            if backbone.model_name not in unused:
                unused[backbone.model_name] = unused_parameters(backbone)
            counted[key] = ours, unused[backbone.model_name]
        comparisons.append(
            Comparison(entry["Name"], float(published), metadata.get("Published FLOPs (G)"), *counted[key], way)
        )
    return comparisons


def unused_parameters(adapter: BackboneAdapter) -> int:
    """Count parameters of timm's model that the adapter has removed: the classifier, a final norm, pruned stages."""
    arguments = without_output_stride(adapter.trunk_arguments)
    full: nn.Module = build_without_data(lambda: create_timm_model(adapter.model_name, **arguments))
    return sum(parameter.numel() for name, parameter in full.named_parameters() if name in adapter.pruned_keys)
