"""Choosing the checkpoint of a run, and the pretrained weights that it replaces."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from safetensors.torch import save_file
from small_detectors import build, ready, retinanet, save_model

from adapters.openmmlab.start import Start, check_start, choose_start, existing_checkpoint


def test_an_argument_comes_before_the_config(tmp_path: Path) -> None:
    kept, asked = tmp_path / "iter_1.pth", tmp_path / "asked.pth"
    asked.touch()
    cfg = Config(dict(work_dir=str(tmp_path), resume=True, load_from=str(kept)))
    with pytest.raises(ValueError, match=r"there is no checkpoint .*iter_1\.pth"):
        choose_start(cfg, None)
    assert choose_start(cfg, str(asked)) == [f"resuming from {asked}"]
    assert (cfg.resume, cfg.load_from) == (True, str(asked))
    nothing = Config(dict(work_dir=str(tmp_path), load_from=None))
    assert choose_start(nothing, None) == []
    assert "nothing to resume" in choose_start(nothing, "auto")[0]
    assert nothing.resume is False


@pytest.mark.parametrize("name", ["nowhere.pth", "hf-hub:owner/name"])
def test_a_checkpoint_that_does_not_exist(name: str) -> None:
    with pytest.raises(ValueError, match=rf"there is no checkpoint '{name}'"):
        choose_start(Config(dict(load_from=name)), None)


def test_urls_that_are_fetched_and_others() -> None:
    assert existing_checkpoint("https://example.com/x.pth") == "https://example.com/x.pth"
    with pytest.raises(ValueError, match=r"'torchvision://resnet50' must be a path, or a URL of http://"):
        existing_checkpoint("torchvision://resnet50")


def start_from(cfg: Config, name: str, **settings: object) -> tuple[Start, Config]:
    cfg = ready(Config({**cfg, "load_from": name, **settings}))
    return check_start(cfg, to_train=True), cfg


def test_no_checkpoint_is_a_start_too() -> None:
    assert check_start(Config(dict(model={})), to_train=True) == Start()


def test_pretrained_weights_go_where_the_checkpoint_has_the_backbone(tmp_path: Path) -> None:
    whole = save_model(retinanet(), tmp_path / "whole.pth")
    start, cfg = start_from(retinanet(weights="timm"), whole)
    assert cfg.model.backbone.weights is None
    assert start.notes[1] == f"pretrained weights set aside, {whole} replaces them: timm"
    assert start.left_out == frozenset()
    idiom = dict(init_cfg=dict(type="Pretrained", checkpoint="/nowhere.pth"))
    assert start_from(retinanet(**idiom), whole)[1].model.backbone.init_cfg is None


def test_pretrained_weights_stay_where_it_has_not(tmp_path: Path) -> None:
    state = build(retinanet()).state_dict()
    heads = {key: value for key, value in state.items() if not key.startswith("backbone.")}
    torch.save({"state_dict": heads}, tmp_path / "heads.pth")
    start, cfg = start_from(retinanet(weights="timm"), str(tmp_path / "heads.pth"))
    assert cfg.model.backbone.weights == "timm"
    assert len(start.notes) == 1
    assert "start from their initial or pretrained weights: backbone 72 of 72" in start.notes[0]
    nearly = {key: value for key, value in state.items() if "patch_embeds.0" not in key}
    torch.save({"state_dict": nearly}, tmp_path / "nearly.pth")
    assert start_from(retinanet(weights="timm"), str(tmp_path / "nearly.pth"))[1].model.backbone.weights == "timm"


def test_what_fits_of_another_part_is_left_out(tmp_path: Path) -> None:
    whole = save_model(retinanet(), tmp_path / "whole.pth")
    wider = retinanet(trunk=dict(depths=[1, 1, 1, 1], embed_dims=[16, 32, 64, 256]), weights="timm")
    start, cfg = start_from(wider, whole)
    assert cfg.model.backbone.weights == "timm"
    assert "backbone.trunk.patch_embeds.0.proj.weight" in start.left_out
    assert {name.partition(".")[0] for name in start.left_out} == {"backbone"}


def test_a_test_needs_the_whole_and_a_training_a_part(tmp_path: Path) -> None:
    name = save_model(retinanet(), tmp_path / "whole.pth")
    cfg = ready(Config({**retinanet(classes=7), "load_from": name, "resume": False}))
    with pytest.raises(ValueError, match="is no checkpoint of this RetinaNet"):
        check_start(cfg, to_train=False)
    assert "2 of another shape" in check_start(cfg, to_train=True).notes[0]


def test_a_run_is_resumed_with_all_that_it_has(tmp_path: Path) -> None:
    run = dict(meta=dict(epoch=1, iter=3), message_hub=dict(loss=HistoryBuffer([1.0], [1])))
    name = save_model(retinanet(), tmp_path / "run.pth", **run)
    start, cfg = start_from(retinanet(weights="timm"), name, resume=True)
    assert cfg.model.backbone.weights is None
    assert start.notes[-1].endswith("holds no state of the optimiser, which starts afresh")
    published = save_model(retinanet(), tmp_path / "published.pth")
    with pytest.raises(ValueError, match="cannot be resumed: it holds a model without the state of its run"):
        start_from(retinanet(), published, resume=True)


def test_another_runner_reads_files_itself(tmp_path: Path) -> None:
    name = save_model(retinanet(), tmp_path / "whole.pth")
    _, cfg = start_from(retinanet(), Path(name).as_uri(), runner_type="FlexibleRunner")
    assert cfg.load_from == name
    save_file({"a": torch.ones(1)}, tmp_path / "whole.safetensors")
    with pytest.raises(ValueError, match=r"whole\.safetensors is not loaded here"):
        start_from(retinanet(), str(tmp_path / "whole.safetensors"), runner_type="FlexibleRunner")


def test_a_folder_is_deepspeeds(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is a folder, as DeepSpeed writes .*runner_type='FlexibleRunner'"):
        start_from(retinanet(), str(tmp_path), resume=True)
    start, cfg = start_from(retinanet(weights="timm"), str(tmp_path), resume=True, runner_type="FlexibleRunner")
    assert cfg.model.backbone.weights is None
    assert "which DeepSpeed itself checks" in start.notes[0]
