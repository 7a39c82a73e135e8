"""The adapters that every contract test runs over: one small trunk per family, and per behaviour within one.

A spec names a real timm model and shrinks it through ``trunk``, so that a test takes milliseconds.
"""

import copy
import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from lab.randomise import randomise

import adapters
from adapters import BackboneAdapter

TWINS = {"depths": [2, 2, 2, 2], "embed_dims": [16, 32, 48, 64], "num_heads": [1, 2, 3, 4]}
SWIN_CR = {"depths": (2, 2, 2, 2), "embed_dim": 24, "num_heads": (1, 2, 3, 4)}
TOKENS = {"depth": 4, "embed_dim": 48, "num_heads": 4}
CONVIT = {"depth": 5, "local_up_to_layer": 3, "embed_dim": 12, "num_heads": 4}
PYRAMID = {"type": "SimpleFeaturePyramid", "out_channels": 24}


@dataclass(frozen=True, eq=False)
class Spec:
    """One adapter under test.

    Attributes:
        name: identifies the spec in a test's name.
        model_name: timm's.
        options: keyword arguments of the adapter, the shrunken trunk among them.
        family: the class that must serve it.
        compares: timm, built for an image's size, computes the same (``tests/families/test_numerics.py``).
    """

    name: str
    model_name: str
    family: type[BackboneAdapter]
    options: Mapping[str, Any] = field(default_factory=dict)
    compares: bool = True

    def build(self, **overrides: Any) -> BackboneAdapter:
        """An adapter of the test's own with every parameter randomised, in eval mode."""
        return copy.deepcopy(_build(self, tuple(sorted(overrides.items()))))

    def __str__(self) -> str:
        return self.name


@functools.cache
def _build(spec: Spec, overrides: tuple[tuple[str, Any], ...]) -> BackboneAdapter:
    torch.manual_seed(0)
    adapter = adapters.TimmAdapter(spec.model_name, **{**spec.options, **dict(overrides)})
    return randomise(adapter).eval()


def image(height: int, width: int, batch: int = 2, channels: int = 3, seed: int = 1) -> torch.Tensor:
    """A seeded random image, ``(B, C, H, W)``."""
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(seed))


def _tokens(**more: Any) -> dict[str, Any]:
    return {"trunk": {**TOKENS, **more}}


ZOO: tuple[Spec, ...] = (
    Spec("twins_svt", "twins_svt_small", adapters.TwinsAdapter, {"trunk": TWINS}),
    Spec("twins_pcpvt", "twins_pcpvt_small", adapters.TwinsAdapter, {"trunk": TWINS}),
    Spec(
        "twins_svt_dense",
        "twins_svt_small",
        adapters.TwinsAdapter,
        {"trunk": TWINS, "stage_norm": True, "window_padding": "mask"},
        compares=False,
    ),
    Spec(
        "twins_svt_two_stages",
        "twins_svt_base",
        adapters.TwinsAdapter,
        {"trunk": TWINS, "out_indices": (0, 2), "window_padding": "mmseg"},
        compares=False,
    ),
    Spec("swinv2_cr", "swinv2_cr_tiny_224", adapters.SwinV2CrAdapter, {"trunk": SWIN_CR}),
    Spec(
        "swinv2_cr_ns",
        "swinv2_cr_tiny_ns_224",
        adapters.SwinV2CrAdapter,
        {"trunk": SWIN_CR, "out_indices": (1, 2, 3)},
    ),
    Spec("vit", "vit_small_patch16_224", adapters.VisionTransformerAdapter, _tokens()),
    Spec(
        "vit_gap_norm",
        "vit_medium_patch16_gap_256",
        adapters.VisionTransformerAdapter,
        {**_tokens(), "out_norm": True, "out_indices": (0, -1)},
    ),
    Spec("vit_patch14_reg", "vit_small_patch14_reg4_dinov2", adapters.VisionTransformerAdapter, _tokens()),
    Spec("deit_distilled", "deit_tiny_distilled_patch16_224", adapters.VisionTransformerAdapter, _tokens()),
    Spec(
        "vit_rope_reg",
        "vit_betwixt_patch16_rope_reg4_gap_256",
        adapters.VisionTransformerAdapter,
        {**_tokens(), "out_norm": True},
    ),
    Spec("vit_rope_mixed_ape", "vit_small_patch16_rope_mixed_ape_224", adapters.VisionTransformerAdapter, _tokens()),
    Spec("dinov3", "vit_small_patch16_dinov3", adapters.VisionTransformerAdapter, _tokens()),
    Spec("eva02", "eva02_tiny_patch14_224", adapters.VisionTransformerAdapter, _tokens()),
    Spec("convit", "convit_tiny", adapters.ConViTAdapter, {"trunk": CONVIT}),
    Spec(
        "convit_local_only",
        "convit_small",
        adapters.ConViTAdapter,
        {"trunk": CONVIT, "out_indices": (0, 2), "out_norm": True},
    ),
    Spec(
        "convit_pyramid", "convit_tiny", adapters.ConViTAdapter, {"trunk": CONVIT, "pyramid": PYRAMID}, compares=False
    ),
    Spec(
        "vit_pyramid",
        "vit_small_patch14_dinov2",
        adapters.VisionTransformerAdapter,
        {**_tokens(), "pyramid": PYRAMID},
        compares=False,
    ),
    Spec(
        "vit_taps",
        "vit_small_patch16_224",
        adapters.VisionTransformerAdapter,
        {**_tokens(), "pyramid": {"type": "TapPyramid"}},
        compares=False,
    ),
    Spec(
        "convit_concat_prior",
        "convit_tiny",
        adapters.ConViTAdapter,
        {"trunk": CONVIT, "pyramid": {"type": "SpatialPrior", "mode": "concat", "stem_channels": 4}},
        compares=False,
    ),
    Spec(
        "dinov2_extract_prior",
        "vit_small_patch14_reg4_dinov2",
        adapters.VisionTransformerAdapter,
        {
            **_tokens(depth=2),
            "pyramid": {
                "type": "SpatialPrior",
                "mode": "extract",
                "stem_channels": 4,
                "num_heads": 2,
                "num_points": 2,
                "extra_extractors": 1,
            },
        },
        compares=False,
    ),
    Spec(
        "resnet", "resnet18", adapters.GenericAdapter, {"trunk": {"layers": [1, 1, 1, 1], "channels": (16, 32, 48, 64)}}
    ),
    Spec(
        "convnext",
        "convnext_atto",
        adapters.GenericAdapter,
        {"trunk": {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}},
    ),
    # Models that timm builds for one size: a table for each block, biases with a cache, blocks of the image, flat
    # tables, two branches, margins.
    Spec(
        "beit",
        "beit_base_patch16_224",
        adapters.GenericAdapter,
        {"trunk": {"depth": 2, "embed_dim": 24, "num_heads": 2}},
        compares=False,
    ),
    Spec(
        "levit",
        "levit_128s",
        adapters.GenericAdapter,
        {"trunk": {"embed_dim": (32, 40, 48), "key_dim": 8, "num_heads": (2, 2, 2), "depth": (1, 1, 1)}},
        compares=False,
    ),
    Spec(
        "nest",
        "nest_tiny",
        adapters.GenericAdapter,
        {"trunk": {"mlp_ratio": 1.0}},
        compares=False,
    ),
    Spec(
        "hiera",
        "hiera_tiny_224",
        adapters.GenericAdapter,
        {"trunk": {"embed_dim": 16, "stages": (1, 1, 1, 1)}},
        compares=False,
    ),
    Spec(
        "crossvit",
        "crossvit_tiny_240",
        adapters.GenericAdapter,
        {"trunk": {"embed_dim": (24, 48), "depth": ((1, 1, 0), (1, 1, 0)), "num_heads": (2, 2)}},
        compares=False,
    ),
    Spec(
        "pit",
        "pit_ti_224",
        adapters.GenericAdapter,
        {"trunk": {"base_dims": (8, 8, 8), "depth": (1, 1, 1), "heads": (1, 2, 4)}},
        compares=False,
    ),
    Spec(
        "swin",
        "swin_tiny_patch4_window7_224",
        adapters.GenericAdapter,
        {"trunk": {"depths": (2, 1, 1, 1), "embed_dim": 24, "num_heads": (1, 2, 3, 4)}, "out_indices": (0, 1, 3)},
        compares=False,
    ),
)

_SWIN = {"depths": (1, 1, 2, 1), "embed_dim": 24, "num_heads": (1, 2, 3, 4)}
_DAVIT = {"depths": (1, 1, 1, 1), "embed_dims": (24, 48, 72, 96), "num_heads": (1, 2, 3, 4)}

#: Further models of timm's, which only the tests of other libraries run over: they share their code with the zoo's.
MORE = (
    Spec("swinv2", "swinv2_tiny_window8_256", adapters.GenericAdapter, {"trunk": _SWIN}),
    Spec("davit", "davit_tiny", adapters.GenericAdapter, {"trunk": _DAVIT}),
    Spec("efficientnet", "efficientnet_lite0", adapters.GenericAdapter),
    Spec("mobilenet", "mobilenetv3_small_050", adapters.GenericAdapter),
    Spec("mobilevit", "mobilevit_xxs", adapters.GenericAdapter),
    Spec("edgenext", "edgenext_xx_small", adapters.GenericAdapter),
    Spec("pvt", "pvt_v2_b0", adapters.GenericAdapter),
    Spec("tiny_vit", "tiny_vit_5m_224", adapters.GenericAdapter),
    Spec("mambaout", "mambaout_femto", adapters.GenericAdapter),
    Spec("xcit", "xcit_nano_12_p16_224", adapters.GenericAdapter, {"trunk": {"depth": 2}}),
    Spec("cait", "cait_xxs24_224", adapters.GenericAdapter, {"trunk": {"depth": 2}}),
    Spec("coat", "coat_lite_tiny", adapters.GenericAdapter),
)

#: Which models have no linear layer is written down here, since a test that is collected builds none.
WITHOUT_LINEAR_LAYERS = {"resnet", "convnext", "efficientnet", "mobilenet"}


def models(*names: str) -> list[Spec]:
    """The models of these names."""
    return [spec for spec in (*ZOO, *MORE) if spec.name in names]


def models_without(names: Collection[str]) -> list[Spec]:
    """All models but those of these names."""
    return [spec for spec in (*ZOO, *MORE) if spec.name not in names]
