"""timm's classification models as backbones for dense prediction, registered with OpenMMLab.

Importing the package registers every adapter and pyramid on mmengine's root registries.
"""

from typing import TYPE_CHECKING, Any

from adapters.base import BackboneAdapter
from adapters.factory import TimmAdapter, create_adapter
from adapters.families.convit import ConViTAdapter
from adapters.families.generic import GenericAdapter
from adapters.families.swinv2_cr import SwinV2CrAdapter
from adapters.families.twins import TwinsAdapter
from adapters.families.vision_transformer import VisionTransformerAdapter
from adapters.levels import Level
from adapters.listing import default_levels, list_models
from adapters.necks.bridge import LevelBridge
from adapters.necks.level_norms import LevelBatchNorm, LevelLayerNorm
from adapters.necks.simple_pyramid import SimpleFeaturePyramid
from adapters.necks.tap_pyramid import TapPyramid
from adapters.preprocessing import Normalisation
from adapters.registry import MODELS

if TYPE_CHECKING:  # for type checkers and the site; __getattr__ imports them when they are asked for
    from adapters.extraction import ExtractionOptions, extract

if MODELS is not None:
    import adapters.openmmlab.batch_padding
    import adapters.openmmlab.channels
    import adapters.openmmlab.checkpoint_hook
    import adapters.openmmlab.cpu_training
    import adapters.openmmlab.layer_decay  # noqa: F401, all register themselves

__version__ = "0.1.0"

__all__ = [
    "BackboneAdapter",
    "ConViTAdapter",
    "ExtractionOptions",
    "GenericAdapter",
    "Level",
    "LevelBatchNorm",
    "LevelBridge",
    "LevelLayerNorm",
    "Normalisation",
    "SimpleFeaturePyramid",
    "SwinV2CrAdapter",
    "TapPyramid",
    "TimmAdapter",
    "TwinsAdapter",
    "VisionTransformerAdapter",
    "create_adapter",
    "default_levels",
    "extract",
    "list_models",
]


def __getattr__(name: str) -> Any:
    """Import what reads images only when it is asked for."""
    if name in ("ExtractionOptions", "extract"):
        from adapters import extraction

        return getattr(extraction, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
