"""Training habits of the former backbone: what is carried over, how stages map, what is dropped and said."""

import importlib
from collections.abc import Iterator
from typing import Any

import pytest
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope

from adapters import TimmAdapter
from adapters.openmmlab.config_files import find_config
from adapters.openmmlab.fit import fit_backbone
from adapters.openmmlab.fit.habits import carry_over
from adapters.openmmlab.run import load_config
from adapters.trunk.build import build_without_data

TRUNKS: dict[str, dict[str, Any]] = {
    "resnet18": {"layers": [1, 1, 1, 1], "channels": (8, 16, 24, 32)},
    "twins_svt_small": {"depths": [1, 1, 1, 1], "embed_dims": [16, 32, 64, 128]},
    "vit_tiny_patch16_224": {"depth": 8, "embed_dim": 48, "num_heads": 4},
    "efficientnet_b0": {},
    "vgg11": {},
}
R18 = "mmdet::retinanet_r18_fpn_1x_coco"


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    for package in ("mmdet", "mmseg"):
        importlib.import_module(f"{package}.utils").register_all_modules(init_default_scope=False)
    yield
    init_default_scope("mmengine")


def carry(model_name: str, former: dict[str, Any], scope: str = "mmdet", **options: Any) -> tuple[Any, str]:
    """The new backbone's config, and the notes about what became of the former one."""
    options = {"weights": "timm", "trunk": TRUNKS[model_name], **options}
    adapter = build_without_data(lambda: TimmAdapter(model_name, **options))
    backbone = ConfigDict(type="TimmAdapter", model_name=model_name, **options)
    return backbone, "\n".join(carry_over(ConfigDict(former), backbone, adapter, adapter, options, scope))


def test_frozen_stages_and_norms_stay_frozen() -> None:
    init_default_scope("mmdet")
    cfg = Config.fromfile(find_config(R18))
    notes = "\n".join(fit_backbone(cfg, "resnet18", trunk=TRUNKS["resnet18"]))
    backbone = cfg.model.backbone
    assert (backbone.norm_eval, backbone.frozen_stages) == (True, 1)
    assert "carried over from ResNet: norm_eval=True, frozen_stages=1" in notes
    assert "dropped with ResNet: depth=18, num_stages=4, norm_cfg={'type': 'BN', 'requires_grad': True}" in notes
    assert "style='pytorch'" in notes


@pytest.mark.parametrize(
    ("model_name", "former", "expected", "note"),
    [
        ("vit_tiny_patch16_224", 1, 2, "(the stem and 1 of 4 stages: the stem and 2 of 8 blocks)"),
        ("vit_tiny_patch16_224", 4, 8, "the stem and 8 of 8 blocks"),
        ("vit_tiny_patch16_224", 0, 0, "(the stem)"),
        ("efficientnet_b0", 1, 2, "the stem and 2 of 7 stages"),
        ("twins_svt_small", 3, 3, "the stem and 3 of 4 stages"),
    ],
)
def test_stages_keep_their_share_of_the_depth(model_name: str, former: int, expected: int, note: str) -> None:
    backbone, notes = carry(model_name, {"type": "ResNet", "frozen_stages": former})
    assert backbone.frozen_stages == expected
    assert note in notes


def test_nothing_is_frozen_that_was_not() -> None:
    backbone, notes = carry("resnet18", {"type": "ResNet", "frozen_stages": -1, "norm_eval": False})
    assert not {"frozen_stages", "norm_eval"} & set(backbone)
    assert "carried over" not in notes


def test_defaults_of_the_former_class_count() -> None:
    assert carry("resnet18", {"type": "ResNet"}, "mmdet")[0].norm_eval is True  # where nothing is said
    assert carry("resnet18", {"type": "mmdet.RegNet", "arch": "x"}, "mmdet")[0].norm_eval is True
    assert "norm_eval" not in carry("resnet18", {"type": "ResNetV1c"}, "mmseg")[0]


def test_stems_that_count_as_stages() -> None:
    former = {"type": "EfficientNet", "frozen_stages": 0, "drop_path_rate": 0.2}
    backbone, _ = carry("resnet18", former)  # nothing is frozen there
    assert "frozen_stages" not in backbone
    assert backbone.drop_path_rate == 0.2
    assert carry("resnet18", {**former, "frozen_stages": 1})[0].frozen_stages == 0


def test_random_weights_are_not_frozen() -> None:
    backbone, notes = carry("resnet18", {"type": "ResNet", "frozen_stages": 1}, weights=None)
    assert not {"frozen_stages", "norm_eval"} & set(backbone)
    assert "norm_eval=True (the new weights are random), frozen_stages=1 (the new weights are random)" in notes


def test_habits_without_a_meaning_are_dropped_aloud() -> None:
    extra = {"dcn": dict(type="DCN", deform_groups=1), "plugins": [{"cfg": "x" * 99}], "deep_stem": True}
    backbone, notes = carry("vit_tiny_patch16_224", {"type": "ResNet", **extra, "with_cp": True})
    assert backbone.with_cp is True
    assert "norm_eval" not in backbone
    assert notes.startswith("carried over from ResNet: with_cp=True\ndropped with ResNet: dcn={'type': 'DCN', ")
    assert "x..., deep_stem=True, norm_eval=True (vit_tiny_patch16_224 has no batch norm)" in notes


def test_stochastic_depth() -> None:
    backbone, notes = carry("vit_tiny_patch16_224", {"type": "SwinTransformer", "drop_path_rate": 0.2})
    assert backbone.drop_path_rate == 0.2
    assert "frozen_stages" not in backbone
    assert "dropped" not in notes
    backbone, notes = carry("vgg11", {"type": "SwinTransformer", "drop_path_rate": 0.2})
    assert "drop_path_rate" not in backbone
    assert "drop_path_rate=0.2 (vgg11 has no stochastic depth)" in notes


def test_the_user_wins() -> None:
    backbone, notes = carry("resnet18", {"type": "ResNet", "frozen_stages": 1}, frozen_stages=3, norm_eval=False)
    assert (backbone.frozen_stages, backbone.norm_eval) == (3, False)
    assert "carried over" not in notes
    overrides = {"model.backbone.frozen_stages": -1, "model.backbone.norm_eval": False}
    cfg, lines = load_config(R18, backbone="resnet18", overrides=overrides)
    assert (cfg.model.backbone.frozen_stages, cfg.model.backbone.norm_eval) == (-1, False)
    assert not any("carried over" in line for line in lines)


def test_an_adapter_follows_an_adapter() -> None:
    vit = "vit_tiny_patch16_224"
    former = {"type": "TimmAdapter", "model_name": vit, "trunk": TRUNKS[vit], "frozen_stages": 6}
    backbone, notes = carry("resnet18", former)
    assert backbone.frozen_stages == 3
    assert "(the stem and 6 of 8 blocks: the stem and 3 of 4 stages)" in notes
