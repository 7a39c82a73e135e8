"""Counts in the publication's way, beside the published ones, for the recipes whose figures stand in the metafile.

Twins' parameters include what training never uses: the backbone's classifier for 1000 classes and its final norm, which
an adapter removes. UPerNet's auxiliary head and the stage norms of SVT are parts of the model here too.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from mmengine.config import Config
from mmengine.registry import MODELS

from adapters.base import BackboneAdapter
from adapters.describing.backbones import build_without_data, unused_parameters
from adapters.describing.configs import count_config
from adapters.describing.counting import Count
from adapters.runner import register_scope

REPOSITORY = Path(__file__).resolve().parents[2]
METAFILE = REPOSITORY / "configs" / "metafile.yaml"

#: ``(H, W)`` of the image that the publication counts at, by package.
SIZES = {"mmdet": (800, 600), "mmseg": (512, 512)}

#: How far, relatively, a count may be from the published one.
PARAMETER_TOLERANCE = 0.01
FLOP_TOLERANCE = 0.05


@dataclass(frozen=True)
class Comparison:
    """A recipe's published counts and ours.

    Attributes:
        recipe: its name, that of the config.
        published_parameters: millions.
        published_flops: thousand millions of multiply-adds; None where none is published.
        ours: of the model as it trains, at the publication's image size.
        unused: parameters of the backbone that the publication counts and an adapter removes.
    """

    recipe: str
    published_parameters: float
    published_flops: float | None
    ours: Count
    unused: int

    @property
    def parameters(self) -> float:
        """Millions, in the publication's way."""
        return (self.ours.parameters + self.unused) / 1e6

    @property
    def flops(self) -> float:
        """Thousand millions of multiply-adds, attention among them."""
        return self.ours.multiply_adds / 1e9

    @property
    def flops_without_attention(self) -> float:
        """The same, of layers that have weights alone."""
        return (self.ours.multiply_adds - self.ours.attention) / 1e9

    @property
    def parameter_difference(self) -> float:
        """Relative."""
        return self.parameters / self.published_parameters - 1

    @property
    def flop_difference(self) -> float | None:
        """Relative; None where nothing is published."""
        return None if self.published_flops is None else self.flops / self.published_flops - 1


def compare_published(metafile: Path = METAFILE) -> list[Comparison]:
    """Every recipe of a metafile that has a published count, in its order. Schedules of one model are counted once."""
    entries = yaml.safe_load(metafile.read_text())["Models"]
    counted: dict[str, tuple[Count, int]] = {}
    comparisons = []
    for entry in entries:
        metadata: dict[str, Any] = entry["Metadata"]
        published = metadata.get("Published Parameters (M)")
        if published is None:
            continue
        cfg = Config.fromfile(metafile.parents[1] / entry["Config"])
        key = json.dumps(cfg.model.to_dict(), sort_keys=True)
        if key not in counted:
            counted[key] = count_as_published(cfg)
        ours, unused = counted[key]
        comparisons.append(
            Comparison(entry["Name"], float(published), metadata.get("Published FLOPs (G)"), ours, unused)
        )
    return comparisons


def count_as_published(cfg: Config) -> tuple[Count, int]:
    """Count a recipe's model at the publication's size; and the parameters that only the publication counts."""
    register_scope(cfg)
    adapter = build_without_data(lambda: MODELS.build(cfg.model.backbone))
    unused = unused_parameters(adapter) if isinstance(adapter, BackboneAdapter) else 0
    return count_config(cfg, SIZES[cfg.default_scope]), unused
