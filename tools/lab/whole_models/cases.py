"""The cases: a detector or segmentor at a size, in training or prediction, on the backbones of one architecture."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Size = tuple[int, int]
Config = dict[str, Any]

#: The side that is ours, a name among the backbones of every architecture.
OURS, TIMM_BACKBONE = "TimmAdapter", "mmseg's TIMMBackbone"

MODELS = {
    "retinanet": "_base_/models/retinanet_fpn_coco.py",
    "mask_rcnn": "_base_/models/mask_rcnn_fpn_coco.py",
    "upernet": "_base_/models/upernet_ade20k.py",
}
SIZES: tuple[Size, ...] = ((512, 512), (800, 1344))
MODES = ("predict", "train")

#: The strides that necks and heads are made for.
STRIDES = (4, 8, 16, 32)

PYRAMID = dict(type="SimpleFeaturePyramid", out_channels=256)


def _adapter(model_name: str, **options: Any) -> Config:
    return dict(type="TimmAdapter", model_name=model_name, weights=None, **options)


def _timm_backbone(model_name: str, **arguments: Any) -> Config:
    """Make the config with which mmseg's class gives the four levels that our adapter gives."""
    return dict(
        type="mmseg.TIMMBackbone",
        model_name=model_name,
        features_only=True,
        pretrained=False,
        out_indices=(0, 1, 2, 3),
        **arguments,
    )


def backbones(architecture: str, size: Size) -> Mapping[str, Config]:
    """Return the backbones of an architecture by side, as a careful user configures them for images of a size."""
    if architecture == "twins_svt":
        return {
            OURS: _adapter("twins_svt_small", stage_norm=True, window_padding="mmseg"),
            TIMM_BACKBONE: _timm_backbone("twins_svt_small"),
            "mmseg's SVT": dict(
                type="mmseg.SVT",
                embed_dims=[64, 128, 256, 512],
                num_heads=[2, 4, 8, 16],
                mlp_ratios=[4, 4, 4, 4],
                depths=[2, 2, 10, 4],
                sr_ratios=[8, 4, 2, 1],
                windiow_sizes=[7, 7, 7, 7],
                qkv_bias=True,
                drop_path_rate=0.0,
                norm_after_stage=True,
            ),
        }
    if architecture == "twins_pcpvt":
        return {
            OURS: _adapter("twins_pcpvt_small"),
            TIMM_BACKBONE: _timm_backbone("twins_pcpvt_small"),
            "mmseg's PCPVT": dict(
                type="mmseg.PCPVT",
                embed_dims=[64, 128, 320, 512],
                num_heads=[1, 2, 5, 8],
                mlp_ratios=[8, 8, 4, 4],
                depths=[3, 4, 6, 3],
                sr_ratios=[8, 4, 2, 1],
                qkv_bias=True,
                drop_path_rate=0.0,
                norm_after_stage=False,
            ),
        }
    if architecture == "swinv2_cr":
        return {
            OURS: _adapter("swinv2_cr_tiny_ns_224"),
            # Without window_size, timm's windows grow with the image.
            TIMM_BACKBONE: _timm_backbone("swinv2_cr_tiny_ns_224", img_size=size, window_size=7),
            "mmdet's Swin-T": dict(
                type="mmdet.SwinTransformer",
                embed_dims=96,
                depths=[2, 2, 6, 2],
                num_heads=[3, 6, 12, 24],
                window_size=7,
                drop_path_rate=0.0,
            ),
        }
    if architecture == "vit_rope":
        name = "vit_medium_patch16_rope_reg1_gap_256"
        return {
            OURS: _adapter(name, out_indices=(-1,), pyramid=PYRAMID),
            TIMM_BACKBONE: _timm_backbone(name, dynamic_img_size=True),
        }
    assert architecture == "convit", architecture
    return {
        OURS: _adapter("convit_tiny", out_indices=(-1,), pyramid=PYRAMID),
        TIMM_BACKBONE: _timm_backbone("convit_tiny", img_size=size),
    }


ARCHITECTURES = ("twins_svt", "twins_pcpvt", "swinv2_cr", "vit_rope", "convit")


@dataclass(frozen=True)
class ModelCase:
    """A model at a size, in a mode, on the backbones of an architecture.

    Attributes:
        model: a key of ``MODELS``.
        size: ``(H, W)`` of the images.
        mode: of ``MODES``: ``'train'`` is a whole step, loss, backward pass and optimiser.
        architecture: of ``ARCHITECTURES``.
    """

    model: str
    size: Size
    mode: str
    architecture: str

    @property
    def name(self) -> str:
        """The case's name on the command line."""
        height, width = self.size
        return f"{self.model}-{height}x{width}-{self.mode}-{self.architecture}"

    @property
    def sides(self) -> tuple[str, ...]:
        """The names of the backbones, ours first."""
        return tuple(backbones(self.architecture, self.size))

    def backbone(self, side: str) -> Config:
        """Return the config of a side's backbone."""
        return dict(backbones(self.architecture, self.size)[side])


def all_cases() -> Iterator[ModelCase]:
    """Yield the cases, the small sizes first."""
    for size in SIZES:
        for model in MODELS:
            for mode in MODES:
                for architecture in ARCHITECTURES:
                    yield ModelCase(model, size, mode, architecture)


def find_cases(words: Sequence[str]) -> list[ModelCase]:
    """Find the cases in whose names all words of one of the arguments occur: ``'retinanet train'``.

    Raises:
        ValueError: there is none for a word.
    """
    cases = list(all_cases())
    found: dict[str, ModelCase] = {}
    for argument in words or [""]:
        parts = argument.split()
        some = [case for case in cases if all(part in case.name for part in parts)]
        if not some:
            raise ValueError(
                f"--cases {argument!r}: no name of a case holds it. A name is MODEL-SIZE-MODE-ARCHITECTURE of "
                f"{', '.join(MODELS)}; {', '.join('x'.join(map(str, size)) for size in SIZES)}; {', '.join(MODES)}; "
                f"{', '.join(ARCHITECTURES)}."
            )
        found |= {case.name: case for case in some}
    return list(found.values())
