"""The backbones that the learning check trains, each small enough for two cores, and the score that each must reach."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: One width and depth for all four-stage models, so that what stands side by side has equal size.
WIDTHS, DEPTHS, HEADS = [48, 96, 192, 384], [2, 2, 4, 2], [2, 4, 8, 16]

#: A token model's, and its pyramid's channels.
PYRAMID_CHANNELS = 128
PYRAMID = dict(type="SimpleFeaturePyramid", out_channels=PYRAMID_CHANNELS)


@dataclass(frozen=True)
class Case:
    """One backbone in the recipe that all share.

    Attributes:
        name: identifies the case.
        backbone: its config.
        channels: of its levels, strides 4 to 32.
        normed: put ``LevelLayerNorm`` between the levels and the neck.
        floor: the mIoU that it must reach, from 0 to 1.
        native: the name of the native class's case that it stands beside, and must not be lower than.
    """

    name: str
    backbone: Mapping[str, Any]
    channels: tuple[int, ...]
    floor: float
    native: str | None = None
    normed: bool = False


#: How much lower than its native counterpart a single seed may end: what another seed changes.
MARGIN = 0.05


def _adapter(model_name: str, **options: Any) -> dict[str, Any]:
    return dict(type="TimmAdapter", model_name=model_name, weights=None, **options)


CASES: tuple[Case, ...] = (
    Case(
        "twins",
        _adapter(
            "twins_svt_small",
            # What mmseg's class does by itself.
            stage_norm=True,
            window_padding="mmseg",
            trunk=dict(embed_dims=WIDTHS, depths=DEPTHS, num_heads=HEADS),
        ),
        tuple(WIDTHS),
        floor=0.55,
        native="mmseg SVT",
    ),
    Case(
        "mmseg SVT",
        dict(
            type="mmseg.SVT",
            embed_dims=WIDTHS,
            depths=DEPTHS,
            num_heads=HEADS,
            mlp_ratios=[4, 4, 4, 4],
            sr_ratios=[8, 4, 2, 1],
            qkv_bias=True,
            drop_path_rate=0.0,
            windiow_sizes=[7, 7, 7, 7],
            norm_after_stage=True,
        ),
        tuple(WIDTHS),
        floor=0.55,
    ),
    Case(
        "swinv2_cr",
        _adapter(
            "swinv2_cr_tiny_ns_224", trunk=dict(embed_dim=WIDTHS[0], depths=tuple(DEPTHS), num_heads=tuple(HEADS))
        ),
        tuple(WIDTHS),
        floor=0.55,
        native="mmdet Swin",
    ),
    Case(
        "swin (timm)",
        _adapter(
            "swin_tiny_patch4_window7_224",
            trunk=dict(embed_dim=WIDTHS[0], depths=tuple(DEPTHS), num_heads=tuple(HEADS)),
        ),
        tuple(WIDTHS),
        floor=0.55,
        native="mmdet Swin",
    ),
    Case(
        "swin (timm), normed",
        _adapter(
            "swin_tiny_patch4_window7_224",
            trunk=dict(embed_dim=WIDTHS[0], depths=tuple(DEPTHS), num_heads=tuple(HEADS)),
        ),
        tuple(WIDTHS),
        floor=0.55,
        native="mmdet Swin",
        normed=True,
    ),
    Case(
        "mmdet Swin",
        dict(
            type="mmdet.SwinTransformer",
            embed_dims=WIDTHS[0],
            depths=DEPTHS,
            num_heads=HEADS,
            window_size=7,
            drop_path_rate=0.0,
        ),
        tuple(WIDTHS),
        floor=0.55,
    ),
    Case(
        "rope vit + pyramid",
        _adapter(
            "vit_medium_patch16_rope_reg1_gap_256",
            pyramid=PYRAMID,
            trunk=dict(embed_dim=256, depth=6, num_heads=4),
        ),
        (PYRAMID_CHANNELS,) * 4,
        floor=0.55,
    ),
    Case(
        "convit + pyramid",
        _adapter(
            "convit_tiny",
            pyramid=PYRAMID,
            trunk=dict(embed_dim=64, num_heads=4, depth=6, local_up_to_layer=5),
        ),
        (PYRAMID_CHANNELS,) * 4,
        floor=0.55,
    ),
)


def find_cases(names: list[str] | None) -> list[Case]:
    """Find cases by name; all of them without names.

    Raises:
        ValueError: there is no such case.
    """
    if not names:
        return list(CASES)
    by_name = {case.name: case for case in CASES}
    for name in names:
        if name not in by_name:
            raise ValueError(f"there is no case {name!r}; the cases are {', '.join(map(repr, by_name))}.")
    return [by_name[name] for name in names]
