"""Loading a config with overrides and another backbone, and choosing where a run starts."""

from pathlib import Path

import pytest
from mmengine.config import Config

from adapters.openmmlab.fit import check_fit
from adapters.openmmlab.run import choose_start, enable_auto_scale_lr, load_config, parse_overrides


def test_a_shipped_config_takes_a_backbone() -> None:
    cfg, notes = load_config("mmdet::fcos_r50-caffe_fpn_gn-head_1x_coco", backbone="test_vit")
    check_fit(cfg)
    assert cfg.model.backbone.model_name == "test_vit"
    assert any("ResNet" in note and "test_vit" in note for note in notes)
    assert cfg.work_dir.endswith("work_dirs/fcos_r50-caffe_fpn_gn-head_1x_coco")
    assert cfg.launcher == "none"


def test_overrides_reach_the_new_backbone(tmp_path: Path) -> None:
    overrides = {"model.backbone.drop_path_rate": 0.3, "train_dataloader.batch_size": 7}
    name = "adapters::retinanet_twins-svt-s_fpn_1x_coco"
    cfg, _ = load_config(name, backbone="test_vit", overrides=overrides, work_dir=str(tmp_path / "here"))
    assert (cfg.model.backbone.model_name, cfg.model.backbone.drop_path_rate) == ("test_vit", 0.3)
    assert cfg.train_dataloader.batch_size == 7
    assert cfg.work_dir == str(tmp_path / "here")
    assert load_config(name)[0].model.backbone.model_name == "twins_svt_small"


def test_words_of_the_command_line_become_values() -> None:
    assert parse_overrides([]) == {}
    words = ["a.b=1", "c=x,2.5", "d=[(1,2),(3,4)]", "e=False"]
    assert parse_overrides(words) == {"a.b": 1, "c": ["x", 2.5], "d": [(1, 2), (3, 4)], "e": False}
    with pytest.raises(ValueError, match=r"takes KEY=VALUE, got 'lr'"):
        parse_overrides(["a=1", "lr"])


def test_an_argument_comes_before_the_config_where_a_run_starts(tmp_path: Path) -> None:
    kept, asked = tmp_path / "iter_1.pth", tmp_path / "asked.pth"
    asked.touch()
    cfg = Config(dict(work_dir=str(tmp_path), model=dict(pretrained="torchvision://resnet50"), resume=True))
    cfg.load_from = str(kept)
    with pytest.raises(ValueError, match=r"there is no checkpoint .*iter_1\.pth"):
        choose_start(cfg, None)
    notes = choose_start(cfg, str(asked))
    assert (cfg.resume, cfg.load_from, cfg.model.pretrained) == (True, str(asked), None)
    assert "torchvision://resnet50" in notes[1]
    nothing = Config(dict(work_dir=str(tmp_path), model={}))
    assert choose_start(nothing, None) == []
    assert "nothing to resume" in choose_start(nothing, "auto")[0]
    assert nothing.resume is False


def test_scaling_the_learning_rate_needs_its_batch_size() -> None:
    cfg = Config(dict(auto_scale_lr=dict(base_batch_size=16)))
    enable_auto_scale_lr(cfg)
    assert cfg.auto_scale_lr.enable
    with pytest.raises(ValueError, match=r"base_batch_size=\.\.\."):
        enable_auto_scale_lr(Config(dict(auto_scale_lr=dict(enable=False))))
