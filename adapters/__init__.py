"""timm's classification models as backbones for dense prediction, registered with OpenMMLab.

Importing the package registers every adapter and pyramid on mmengine's root registries.
"""

from adapters.base import BackboneAdapter
from adapters.bridge import LevelBridge
from adapters.factory import TimmAdapter, create_adapter
from adapters.families.convit import ConViTAdapter
from adapters.families.generic import GenericAdapter
from adapters.families.swinv2_cr import SwinV2CrAdapter
from adapters.families.twins import TwinsAdapter
from adapters.families.vision_transformer import VisionTransformerAdapter
from adapters.levels import Level
from adapters.pyramid import SimpleFeaturePyramid, TapPyramid
from adapters.registry import MODELS

if MODELS is not None:
    import adapters.amp  # noqa: F401, registers itself

__version__ = "0.1.0"

__all__ = [
    "BackboneAdapter",
    "ConViTAdapter",
    "GenericAdapter",
    "Level",
    "LevelBridge",
    "SimpleFeaturePyramid",
    "SwinV2CrAdapter",
    "TapPyramid",
    "TimmAdapter",
    "TwinsAdapter",
    "VisionTransformerAdapter",
    "create_adapter",
]
