"""What recipes say: hyper-parameters as published, figures as in the metafile, pixels as the weights expect them."""

import fnmatch
import re
from pathlib import Path
from typing import Any

import pytest
import small_recipes
import timm
import yaml
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS

from adapters.openmmlab.cpu_training import choose_precision
from adapters.openmmlab.fit import check_fit, fit_backbone
from adapters.openmmlab.run import register_scope

METAFILE = yaml.safe_load((small_recipes.REPOSITORY / "configs" / "metafile.yaml").read_text())
ENTRIES = {entry["Name"]: entry for entry in METAFILE["Models"]}
each_recipe = pytest.mark.parametrize("path", small_recipes.PUBLISHED, ids=lambda path: path.stem)

# Twins as its authors trained it: learning rate, weight decay, length, when the rate drops or how, warmup, drop path.
EPOCHS_12 = dict(length=12, milestones=[8, 11], warmup=(500, 0.001))
EPOCHS_36 = dict(length=36, milestones=[27, 33], warmup=(500, 0.001))
TWINS = {
    "mask-rcnn_twins-*_fpn_1x_coco": dict(lr=2e-4, weight_decay=1e-4, drop_path=0.2, **EPOCHS_12),
    "retinanet_twins-*_fpn_1x_coco": dict(lr=1e-4, weight_decay=1e-4, drop_path=0.2, **EPOCHS_12),
    "*_twins-*_fpn_3x_coco": dict(lr=1e-4, weight_decay=0.05, drop_path=0.2, **EPOCHS_36),
    "fpn_twins-*-[sb]_80k_*": dict(lr=1e-4, weight_decay=1e-4, drop_path=0.2, length=80000, power=0.9, warmup=None),
    "fpn_twins-*-l_80k_*": dict(lr=1e-4, weight_decay=1e-4, drop_path=0.3, length=80000, power=0.9, warmup=None),
    "upernet_twins-*-[sb]_160k_*": dict(
        lr=6e-5, weight_decay=0.01, drop_path=0.2, length=160000, power=1.0, warmup=(1500, 1e-6)
    ),
    "upernet_twins-*-l_160k_*": dict(
        lr=6e-5, weight_decay=0.01, drop_path=0.3, length=160000, power=1.0, warmup=(1500, 1e-6)
    ),
}
TWINS_RECIPES = [path for path in small_recipes.PUBLISHED if any(fnmatch.fnmatch(path.stem, key) for key in TWINS)]
#: Where the code has exceptions from the weight decay.
WITH_EXCEPTIONS = ("_3x_", "_160k_")


def hyper_parameters(cfg: Config) -> dict[str, Any]:
    """A config's, in the words of the table above."""
    optimizer, decay = cfg.optim_wrapper.optimizer, cfg.param_scheduler[-1]
    assert optimizer.type == "AdamW"
    assert tuple(optimizer.get("betas", (0.9, 0.999))) == (0.9, 0.999)
    found = dict(lr=optimizer.lr, weight_decay=optimizer.weight_decay, drop_path=cfg.model.backbone.drop_path_rate)
    found["length"] = cfg.train_cfg.get("max_epochs") or cfg.train_cfg.max_iters
    assert decay.end == found["length"]
    warmup = cfg.param_scheduler[0]
    found["warmup"] = (warmup.end, warmup.start_factor) if warmup.type == "LinearLR" else None
    if decay.type == "MultiStepLR":
        assert decay.gamma == 0.1
        return dict(found, milestones=decay.milestones)
    assert (decay.type, decay.eta_min) == ("PolyLR", 0.0)
    return dict(found, power=decay.power)


def test_all_of_twins_is_there() -> None:
    models = [f"{kind}-{size}" for kind in ("pcpvt", "svt") for size in "sbl"]
    wanted = {f"{detector}_twins-{model}_fpn_{length}_coco"
              for detector in ("mask-rcnn", "retinanet") for model in models for length in ("1x", "3x")}  # fmt: skip
    wanted |= {f"fpn_twins-{model}_80k_ade20k-512x512" for model in models}
    wanted |= {f"upernet_twins-{model}_160k_ade20k-512x512" for model in models}
    assert {path.stem for path in TWINS_RECIPES} == wanted
    assert len(wanted) == 36


@pytest.mark.parametrize("path", TWINS_RECIPES, ids=lambda path: path.stem)
def test_twins_is_trained_as_its_authors_trained_it(path: Path) -> None:
    cfg = small_recipes.read(path)
    (expected,) = [value for key, value in TWINS.items() if fnmatch.fnmatch(path.stem, key)]
    assert hyper_parameters(cfg) == expected
    backbone = cfg.model.backbone
    assert backbone.model_name == "twins_{}_{}".format(
        *re.search(r"twins-(\w+)-", path.stem).groups(),
        {"s": "small", "b": "base", "l": "large"}[re.search(r"twins-\w+-(\w)_", path.stem)[1]],
    )
    svt = "svt" in path.stem
    assert backbone.get("stage_norm", False) == svt
    expected_padding = None if not svt else "zero" if path.parent.name == "detection" else "mmseg"
    assert backbone.get("window_padding") == expected_padding
    assert cfg.optim_wrapper.type == ("AmpOptimWrapper" if re.match("mask-rcnn.*_3x_", path.stem) else "OptimWrapper")
    assert "clip_grad" not in cfg.optim_wrapper
    if path.stem.startswith("retinanet"):
        assert (cfg.model.neck.start_level, cfg.model.neck.add_extra_convs) == (1, "on_input")


@pytest.mark.parametrize("path", [path for path in TWINS_RECIPES if "svt-s" in path.stem], ids=lambda path: path.stem)
def test_norms_and_position_convolutions_have_no_weight_decay_where_the_code_says_so(path: Path) -> None:
    cfg = small_recipes.read(path)
    register_scope(cfg)
    small_recipes.shrink(cfg)
    choose_precision(cfg, amp=False)
    model = MODELS.build(cfg.model)
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    undecayed = {names[parameter] for group in groups if group["weight_decay"] == 0 for parameter in group["params"]}
    if any(key in path.stem for key in WITH_EXCEPTIONS):
        assert undecayed == {name for name in names.values() if "norm" in name or "pos_block" in name}
        assert any("stage_norms" in name for name in undecayed)
    else:
        assert undecayed == set()


def test_the_augmentation_of_3x() -> None:
    cfg = small_recipes.read(small_recipes.REPOSITORY / "configs/detection/mask-rcnn_twins-svt-s_fpn_3x_coco.py")
    (choice,) = [step for step in cfg.train_dataloader.dataset.pipeline if step.type == "RandomChoice"]
    plain, cropped = choice.transforms
    scales = [(short, 1333) for short in (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)]
    assert [tuple(scale) for scale in plain[0]["scales"]] == scales
    assert [step.type for step in cropped] == ["RandomChoiceResize", "RandomCrop", "RandomChoiceResize"]
    assert [tuple(scale) for scale in cropped[0]["scales"]] == [(400, 1333), (500, 1333), (600, 1333)]
    assert (cropped[1].crop_size, cropped[1].crop_type) == ((384, 600), "absolute_range")
    assert [tuple(scale) for scale in cropped[2]["scales"]] == scales
    assert cfg.model.data_preprocessor.pad_size_divisor == 32


@each_recipe
def test_the_metafile_agrees_with_the_recipe(path: Path) -> None:
    cfg = small_recipes.read(path)
    entry = ENTRIES[path.stem]
    metadata = entry["Metadata"]
    assert small_recipes.REPOSITORY / entry["Config"] == path
    assert entry["In Collection"] in {collection["Name"] for collection in METAFILE["Collections"]}
    assert metadata["Batch Size"] == cfg.auto_scale_lr.base_batch_size
    assert metadata["Batch Size"] % cfg.train_dataloader.batch_size == 0
    length = metadata["Epochs"] if "max_epochs" in cfg.train_cfg else metadata["Iterations"]
    assert length == (cfg.train_cfg.get("max_epochs") or cfg.train_cfg.max_iters)
    assert (metadata["Source"] == "none published") == (entry["Results"] == [])
    headline = path.read_text().split("_base_")[0]
    published = [next(iter(result["Metrics"].values())) for result in entry["Results"]]
    assert all(str(figure) in headline for figure in published), headline
    assert bool(published) == bool(re.search(r"\d published", headline))


def test_the_metafile_lists_every_recipe_once() -> None:
    assert sorted(entry["Name"] for entry in METAFILE["Models"]) == sorted(
        path.stem for path in small_recipes.PUBLISHED
    )


@each_recipe
def test_pixels_are_normalised_as_the_weights_expect(path: Path) -> None:
    model = small_recipes.read(path).model
    weights = timm.get_pretrained_cfg(model.backbone.model_name)
    assert model.backbone.weights == "timm"
    assert timm.models.is_model_pretrained(model.backbone.model_name)
    assert model.data_preprocessor.bgr_to_rgb
    assert model.data_preprocessor.mean == pytest.approx([255 * value for value in weights.mean], abs=0.01)
    assert model.data_preprocessor.std == pytest.approx([255 * value for value in weights.std], abs=0.01)


@each_recipe
def test_a_frozen_recipe_freezes_all_and_the_others_nothing(path: Path) -> None:
    frozen_stages = small_recipes.read(path).model.backbone.get("frozen_stages", -1)
    stages = 4 if "convnext" in path.stem else 12
    assert frozen_stages == (stages if "_frozen_" in path.stem else -1)


@pytest.mark.parametrize(("model_name", "channels"), [("twins_svt_small", 256), ("vit_tiny_patch16_224", 192)])
def test_a_linear_probe_follows_its_backbone(model_name: str, channels: int) -> None:
    """At the stride that it had, 16."""
    cfg = small_recipes.read(
        small_recipes.REPOSITORY / "configs/segmentation/linear_dinov3-vit-s_frozen_40k_ade20k-512x512.py"
    )
    register_scope(cfg)
    lines = fit_backbone(cfg, model_name)
    assert not any("LevelBridge" in line for line in lines)
    assert cfg.model.neck.in_channels == [channels]
    assert (cfg.model.decode_head.in_channels, cfg.model.decode_head.channels) == (channels, channels)
    check_fit(cfg)
