"""Swapping backbones: what is written into configs of every kind, what is refused, and the bridge."""

import importlib
from pathlib import Path

import mmdet
import mmseg
import pytest
import torch
from lab import sweep
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from adapters.openmmlab.config_tree import drop_pretrained
from adapters.openmmlab.fit import check_fit, fit_backbone

TWINS = {"trunk": {"depths": [1, 1, 1, 1], "embed_dims": [16, 32, 64, 128]}}
VIT = {"trunk": {"depth": 4, "embed_dim": 48, "num_heads": 4}}
MODELS_UNDER_TEST = {"twins_svt_small": TWINS, "vit_tiny_patch16_224": VIT}


def shipped(scope: str, name: str) -> Config:
    """A config that ships with mmdet or mmseg, by the start of its path."""
    package = {"mmdet": mmdet, "mmseg": mmseg}[scope]
    root = Path(package.__file__).parent / ".mim" / "configs"
    path = sorted(root.glob(f"{name}*.py"))[0]
    init_default_scope(scope)
    return Config.fromfile(path)


@pytest.fixture(scope="module", autouse=True)
def registered() -> None:
    for package in ("mmdet", "mmseg"):
        importlib.import_module(f"{package}.utils").register_all_modules(init_default_scope=False)


def fit(cfg: Config, model_name: str, **options: object) -> list[str]:
    return fit_backbone(cfg, model_name, **{**MODELS_UNDER_TEST[model_name], **options})


def test_fpn_reads_the_stages_of_the_same_strides() -> None:
    cfg = shipped("mmdet", "retinanet/retinanet_r18_fpn_1x_coco")
    lines = fit(cfg, "twins_svt_small")
    backbone = cfg.model.backbone
    assert (backbone.type, backbone.model_name, backbone.out_indices) == ("TimmAdapter", "twins_svt_small", (1, 2, 3))
    assert cfg.model.neck.in_channels == [32, 64, 128]  # start_level was 1: the stage of stride 4 was not read
    assert cfg.model.neck.start_level == 0
    assert cfg.custom_imports["imports"] == ["adapters"]
    assert "model.neck.in_channels: [64, 128, 256, 512] -> [32, 64, 128]" in lines
    assert "ResNet (stride 4: 64 channels" in lines[0]
    assert "twins_svt_small (stride 8: 32 channels" in lines[0]
    check_fit(cfg)


@pytest.mark.parametrize("mode", ["concat", "extract"])
def test_a_spatial_prior_that_is_asked_for_fits_and_is_checked(mode: str) -> None:
    cfg = shipped("mmdet", "mask_rcnn/mask-rcnn_r50_fpn_1x_coco")
    fit(cfg, "vit_tiny_patch16_224", pyramid={"type": "SpatialPrior", "mode": mode, "out_channels": 24})
    assert cfg.model.backbone.pyramid.type == "SpatialPrior"
    assert cfg.model.neck.in_channels == [24] * 4
    check_fit(cfg)
    cfg.model.neck.in_channels = [24, 24, 24, 32]
    with pytest.raises(ValueError, match=r"model.neck.in_channels=\[24, 24, 24, 32\] does not fit"):
        check_fit(cfg)


def test_a_token_model_gets_a_pyramid_where_strides_are_needed() -> None:
    cfg = shipped("mmdet", "mask_rcnn/mask-rcnn_r50_fpn_1x_coco")
    fit(cfg, "vit_tiny_patch16_224")
    pyramid = cfg.model.backbone.pyramid
    assert (pyramid.type, pyramid.out_strides) == ("SimpleFeaturePyramid", (4, 8, 16, 32))
    assert cfg.model.neck.in_channels == [256] * 4
    check_fit(cfg)


def test_pretrained_stays_pretrained_and_scratch_stays_scratch() -> None:
    cfg = shipped("mmdet", "retinanet/retinanet_r18_fpn_1x_coco")
    assert any("torchvision://resnet18" in line for line in fit(cfg, "twins_svt_small"))
    assert cfg.model.backbone.weights == "timm"
    cfg = shipped("mmdet", "yolox/yolox_tiny")
    assert any("`--cfg-options model.backbone.weights=timm` starts it" in line for line in fit(cfg, "twins_svt_small"))
    assert cfg.model.backbone.weights is None
    cfg = shipped("mmdet", "retinanet/retinanet_r18_fpn_1x_coco")
    assert not any("starts from scratch" in line for line in fit(cfg, "twins_svt_small", weights=None))
    assert cfg.model.backbone.weights is None
    cfg = shipped("mmdet", "pvt/retinanet_pvt-s_fpn_1x_coco")  # its init_cfg has no type
    assert any("pvt_small.pth" in line for line in fit(cfg, "twins_svt_small"))
    assert cfg.model.backbone.weights == "timm"
    cfg = shipped("mmseg", "deeplabv3plus/deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512")
    fit(cfg, "twins_svt_small")
    assert cfg.model.pretrained is None
    assert cfg.model.backbone.weights == "timm"
    assert drop_pretrained(cfg.model) == ["timm"]
    assert cfg.model.backbone.weights is None


@pytest.mark.parametrize(
    ("scope", "name", "expected"),
    [
        # deepest level first
        ("mmdet", "yolo/yolov3_mobilenetv2_8xb24-320", {"neck.in_channels": [128, 64, 32]}),
        # one number, for the last level
        ("mmdet", "yolof/yolof_r50", {"neck.in_channels": 128, "backbone.out_indices": (3,)}),
        # a list and strides in a head, no neck
        ("mmdet", "mask2former/mask2former_r50_8xb2-lsj-50e_coco", {"panoptic_head.in_channels": [16, 32, 64, 128]}),
        # the model inside a tracker
        ("mmdet", "qdtrack/qdtrack_faster-rcnn_r50_fpn_4e_base", {"detector.neck.in_channels": [16, 32, 64, 128]}),
        # dilated stages give way to stages of the same depth; a second setting for the first map
        (
            "mmseg",
            "deeplabv3plus/deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512",
            {
                "decode_head.in_channels": 128,
                "decode_head.c1_in_channels": 16,
                "decode_head.in_index": 2,
                "auxiliary_head.in_channels": 64,
                "auxiliary_head.in_index": 1,
                "backbone.out_indices": (0, 2, 3),
            },
        ),
        # a neck that makes strides is in the way
        ("mmseg", "beit/beit-base", {"neck": None, "decode_head.in_channels": [16, 32, 64, 128]}),
        # a neck that hands a map through to the auxiliary head
        (
            "mmseg",
            "fastfcn/fastfcn_r50-d32_jpu_aspp",
            {"neck.in_channels": (32, 64, 128), "auxiliary_head.in_channels": 64},
        ),
    ],
)
def test_every_kind_of_reader_is_rewritten(scope: str, name: str, expected: dict[str, object]) -> None:
    cfg = shipped(scope, name)
    fit(cfg, "twins_svt_small")
    found = {}
    for key in expected:
        node = cfg.model
        for part in key.split("."):
            node = node[part]
        found[key] = node
    assert found == expected
    check_fit(cfg)


def test_strides_in_a_head_follow_the_levels() -> None:
    cfg = shipped("mmseg", "mask2former/mask2former_r50_8xb2-160k")
    cfg.model.backbone.update(strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4))
    cfg.model.decode_head.strides = [4, 8, 8, 8]
    fit(cfg, "twins_svt_small")
    assert cfg.model.decode_head.strides == [4, 8, 16, 32]


def test_segmentation_heads_read_a_token_models_blocks() -> None:
    cfg = shipped("mmseg", "upernet/upernet_r18_4xb2-40k")
    fit(cfg, "vit_tiny_patch16_224")
    assert cfg.model.backbone.pyramid.type == "TapPyramid"
    assert cfg.model.decode_head.in_channels == [48] * 4
    cfg = shipped("mmseg", "deeplabv3plus/deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512")
    fit(cfg, "vit_tiny_patch16_224")  # strides 4, 8, 8, 8: depth counts, not stride
    assert cfg.model.backbone.out_indices == (0, 2, 3)
    check_fit(cfg)


@pytest.mark.parametrize(
    ("scope", "name", "strides", "channels"),
    [
        ("mmdet", "pascal_voc/faster-rcnn_r50-caffe-c4", [16], [1024]),  # the RoI head has a fixed shared_head
        ("mmdet", "ssd/ssd300_coco", [8, 16], [512, 1024]),  # the neck passes its inputs on
        ("mmseg", "erfnet/erfnet", [2], [256]),  # no stage has this stride; the head takes what it gets
        ("mmseg", "ddrnet/ddrnet_23-slim", [8, 8], [64, 128]),  # one map in eval mode
    ],
)
@pytest.mark.parametrize("model_name", MODELS_UNDER_TEST)
def test_a_bridge_gives_what_no_setting_can(
    scope: str, name: str, strides: list[int], channels: list[int], model_name: str
) -> None:
    cfg = shipped(scope, name)
    lines = fit(cfg, model_name)
    if name == "erfnet/erfnet" and model_name.startswith("vit"):
        assert cfg.model.backbone.pyramid.out_strides == (2,)  # a pyramid makes any stride
        return
    bridge = cfg.model.neck[0]
    assert (bridge.type, bridge.out_strides, bridge.out_channels) == ("LevelBridge", strides, channels)
    assert any("LevelBridge" in line for line in lines)
    check_fit(cfg)


def test_a_bridge_goes_into_a_backbone_that_wraps_another() -> None:
    cfg = shipped("mmseg", "bisenetv1/bisenetv1_r18-d32_4xb4-160k_cityscapes")
    fit(cfg, "twins_svt_small")
    assert cfg.model.backbone.type == "BiSeNetV1"
    adapter, bridge = cfg.model.backbone.backbone_cfg
    assert (adapter.type, bridge.type) == ("TimmAdapter", "LevelBridge")
    outputs = MODELS.build(cfg.model.backbone)(torch.rand(2, 3, 64, 96))
    assert [tuple(output.shape) for output in outputs] == [(2, 256, 8, 12), (2, 128, 8, 12), (2, 128, 4, 6)]


@pytest.mark.parametrize("name", ["retinanet/retinanet_r18_fpn_1x_coco", "cornernet/cornernet_hourglass104"])
@pytest.mark.parametrize(("first", "second"), [tuple(MODELS_UNDER_TEST), tuple(MODELS_UNDER_TEST)[::-1]])
def test_a_swap_can_be_followed_by_another(name: str, first: str, second: str) -> None:
    cfg = shipped("mmdet", name)
    fit(cfg, first)
    fit(cfg, second)
    check_fit(cfg)
    model = MODELS.build(cfg.model)
    given = model.extract_feat(torch.rand(2, 3, 64, 64))
    expected = [8, 4, 2, 1, 1] if name.startswith("retinanet") else [16, 16]
    assert [level.shape[-1] for level in given] == expected


def test_a_wrapped_backbone_can_be_swapped_again() -> None:
    cfg = shipped("mmseg", "bisenetv1/bisenetv1_r18-d32_4xb4-160k_cityscapes")
    fit(cfg, "twins_svt_small")
    fit(cfg, "vit_tiny_patch16_224")
    adapter, bridge = cfg.model.backbone.backbone_cfg
    assert adapter.model_name == "vit_tiny_patch16_224"
    assert bridge.out_channels == [64, 128, 256, 512]


def test_a_pyramid_neck_gives_way_to_a_models_own_strides() -> None:
    cfg = shipped("mmdet", "retinanet/retinanet_r18_fpn_1x_coco")
    fit(cfg, "vit_tiny_patch16_224", out_indices=(3,))
    pyramid = {"type": "SimpleFeaturePyramid", "in_channels": 48, "out_channels": 24}
    cfg.model.neck = [pyramid, {**cfg.model.neck[-1], "in_channels": [24] * 4, "start_level": 1}]
    lines = fit(cfg, "twins_svt_small")
    assert [neck.type for neck in cfg.model.neck] == ["FPN"]
    assert cfg.model.neck[0].in_channels == [32, 64, 128]
    assert "model.neck[0]: SimpleFeaturePyramid left out, since the levels have strides already" in lines


def test_levels_that_the_caller_chooses() -> None:
    cfg = shipped("mmdet", "retinanet/retinanet_r18_fpn_1x_coco")
    pyramid = {"type": "SimpleFeaturePyramid", "out_channels": 32, "out_strides": (8, 16, 32)}
    fit(cfg, "vit_tiny_patch16_224", pyramid=pyramid)
    assert cfg.model.neck.in_channels == [32] * 3
    cfg = shipped("mmdet", "retinanet/retinanet_r18_fpn_1x_coco")
    fit(cfg, "twins_svt_small", out_indices=(2, 3))  # no stride 8: a bridge makes it
    assert cfg.model.neck[0].out_strides == [8, 16, 32]
    assert cfg.model.neck[1].in_channels == [256] * 3


def test_layer_decay_of_the_former_backbone_goes() -> None:
    cfg = shipped("mmseg", "beit/beit-base")
    assert cfg.optim_wrapper.constructor == "LayerDecayOptimizerConstructor"
    lines = fit(cfg, "twins_svt_small")
    assert "constructor" not in cfg.optim_wrapper
    assert cfg.optim_wrapper.paramwise_cfg == {}
    assert any("LayerDecayOptimizerConstructor left out" in line for line in lines)


def test_what_cannot_be_swapped_says_why() -> None:
    with pytest.raises(ValueError, match=r"TridentResNet, cannot be swapped: TridentNet is its backbone"):
        fit(shipped("mmdet", "tridentnet/tridentnet"), "twins_svt_small")
    with pytest.raises(ValueError, match=r"model \(MultimodalEncoderDecoder\) has no backbone to swap; its parts are"):
        fit(shipped("mmseg", "san/san-vit-b16"), "twins_svt_small")
    cfg = shipped("mmdet", "retinanet/retinanet_r18_fpn_1x_coco")
    cfg.model.backbone.depth = 19
    with pytest.raises(ValueError, match=r"the config's own backbone, ResNet, cannot be built.*KeyError"):
        fit(cfg, "twins_svt_small")
    with pytest.raises(ValueError, match=r"no model named 'twins_svt_smal'.*twins_svt_small"):
        fit_backbone(shipped("mmdet", "retinanet/retinanet_r18_fpn_1x_coco"), "twins_svt_smal")
    with pytest.raises(ValueError, match="takes no colour"):
        fit_backbone(shipped("mmdet", "retinanet/retinanet_r18_fpn_1x_coco"), "twins_svt_small", colour="red")


def test_a_neck_that_does_not_fit_is_found_with_both_lists() -> None:
    cfg = shipped("mmdet", "retinanet/retinanet_r18_fpn_1x_coco")
    check_fit(cfg)  # not our backbone: nothing to say
    fit(cfg, "twins_svt_small")
    cfg.model.neck.in_channels = [64, 128, 256]
    with pytest.raises(
        ValueError, match=r"model\.neck\.in_channels=\[64, 128, 256\].*twins_svt_small\) gives \[32, 64, 128\]"
    ):
        check_fit(cfg)
    cfg.model.neck.in_channels = [32, 64, 128, 256]
    with pytest.raises(ValueError, match=r"reads \[32, 64, 128, 256\].*gives \[32, 64, 128\]"):
        check_fit(cfg)


def test_a_head_that_does_not_fit_is_found() -> None:
    cfg = shipped("mmseg", "upernet/upernet_r18_4xb2-40k")
    fit(cfg, "twins_svt_small")
    cfg.model.auxiliary_head.in_channels = 65
    with pytest.raises(ValueError, match=r"model\.auxiliary_head\.in_channels=65.*\[16, 32, 64, 128\].*Set .*=64"):
        check_fit(cfg)
    cfg.model.auxiliary_head.in_index = 4
    with pytest.raises(ValueError, match=r"auxiliary_head\.in_index=4 picks a map that does not exist: there are 4"):
        check_fit(cfg)


def test_necks_of_ours_are_followed() -> None:
    cfg = shipped("mmdet", "retinanet/retinanet_r18_fpn_1x_coco")
    fit(cfg, "vit_tiny_patch16_224", pyramid=None)
    fpn = cfg.model.neck[-1]
    cfg.model.backbone.out_indices = (3,)
    pyramid = {"type": "SimpleFeaturePyramid", "in_channels": 48, "out_channels": 24, "out_strides": (8, 16, 32)}
    cfg.model.neck = [pyramid, {**fpn, "in_channels": [24] * 3}]
    check_fit(cfg)
    cfg.model.neck[0].in_channels = 49
    with pytest.raises(ValueError, match=r"model\.neck\[0\]\.in_channels=49.*gives \[48\]"):
        check_fit(cfg)
    cfg.model.neck[0].in_channels = 48
    cfg.model.neck[1].in_channels = [24, 24, 25]
    with pytest.raises(ValueError, match=r"model\.neck\[1\].*neck\[0\] \(SimpleFeaturePyramid\) gives \[24, 24, 24\]"):
        check_fit(cfg)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "model_name"),
    [
        ("mmdet/faster_rcnn", "twins_svt_small"),
        ("mmdet/cornernet", "convit_tiny"),
        ("mmdet/mask2former", "vit_tiny_patch16_224"),
        ("mmseg/dpt", "convit_tiny"),
        ("mmseg/pidnet", "twins_svt_small"),
        ("mmseg/stdc", "vit_tiny_patch16_224"),
    ],
)
def test_algorithms_run(algorithm: str, model_name: str) -> None:
    size = sweep.SIZES[algorithm.split("/")[0]][0]
    config = next(iter(sweep.configs_by_algorithm()[algorithm].values()))
    assert sweep.run_config(str(config), algorithm, model_name, size) == sweep.OK
