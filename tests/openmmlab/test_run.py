"""Loading a config with overrides and another backbone."""

from pathlib import Path

import pytest
from mmengine.config import Config

from adapters.openmmlab.fit import check_fit
from adapters.openmmlab.run import enable_auto_scale_lr, load_config, parse_overrides, register_scope


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


def test_scaling_the_learning_rate_needs_its_batch_size() -> None:
    cfg = Config(dict(auto_scale_lr=dict(base_batch_size=16)))
    enable_auto_scale_lr(cfg)
    assert cfg.auto_scale_lr.enable
    with pytest.raises(ValueError, match=r"base_batch_size=\.\.\."):
        enable_auto_scale_lr(Config(dict(auto_scale_lr=dict(enable=False))))


def test_compiled_operators_that_cannot_be_loaded_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise ImportError("undefined symbol: _ZN3c10", name="_ext") if name == "mmcv.ops" else AssertionError(name)

    monkeypatch.setattr("importlib.import_module", fail)
    with pytest.raises(ModuleNotFoundError, match=r"\(undefined symbol: _ZN3c10\).*install mmcv without them, `pip"):
        register_scope(Config(dict(default_scope="mmdet")))
