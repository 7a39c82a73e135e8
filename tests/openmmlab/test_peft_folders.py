"""Low-rank tuning in runs: resumed exactly, saved alone, tested from all that it leaves, started from other models."""

import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import timm
import torch
from lab.shapes import ShapesSettings, make_dataset
from mmengine.config import Config
from mmengine.registry import MODELS
from safetensors.torch import load_file
from small_detectors import build, ready, retinanet
from small_runs import SEGMENTATION, write_config
from torch import Tensor, nn

from adapters.commands import convert, extract, train
from adapters.openmmlab.model_checkpoint import check_partial, check_whole
from adapters.openmmlab.peft_folders import REST, as_checkpoint, settle_for, write_folder
from adapters.openmmlab.run import load_config
from adapters.openmmlab.run import test as run_test
from adapters.openmmlab.whole_model import read_model

MODEL = "test_vit"
LORA = {"type": "LoRA", "r": 2, "alpha": 6, "targets": "all", "norms": True}
#: What stands before the trunk's names in a whole model.
PREFIX = "backbone.trunk."

# Nothing is drawn at random, so that a run that goes on sees what it would have seen.
SETTLED = (
    SEGMENTATION
    + """
randomness = dict(seed=3)
model["decode_head"]["dropout_ratio"] = 0.0
train_pipeline[2] = dict(type="Resize", scale=(64, 64), keep_ratio=False)
"""
)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder with a run of four steps, one that went on after two, the base weights and a config without tuning."""
    folder = tmp_path_factory.mktemp("tuned")
    make_dataset(folder / "shapes", ShapesSettings(train=4, val=2, size_range=(64, 80)))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("CUDA_VISIBLE_DEVICES", "-1")
        torch.save(timm.create_model(MODEL).state_dict(), "base.pth")
        path = write_config(SETTLED, folder / "shapes", "tuned")
        backbone = ["--backbone", MODEL, "--cfg-options", "model.backbone.weights=base.pth", "val_cfg=None",
                    "val_dataloader=None", "val_evaluator=None", "train_cfg.val_interval=1000",
                    "default_hooks.checkpoint.max_keep_ckpts=2"]  # fmt: skip
        options = [*backbone, *(f"model.backbone.peft.{key}={value}" for key, value in LORA.items())]
        train.main([path, "--work-dir", "whole", "--save-peft", *options])
        Path("rest").mkdir()
        shutil.copy("whole/iter_2.pth", "rest")
        train.main([path, "--work-dir", "rest", "--resume", "rest/iter_2.pth", "--save-peft", *options])
        yield folder


def state(path: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = read_model(str(path))["state_dict"]
    return tensors


def config(work: Path, name: str, *, tuned: bool) -> Any:
    overrides = {"model.backbone.weights": str(work / "base.pth")}
    if tuned:
        overrides["model.backbone.peft"] = dict(LORA)
    return load_config(str(work / "tiny.py"), backbone=MODEL, overrides=overrides, work_dir=str(work / name))


def test_what_was_frozen_is_as_it_was_and_a_resumed_run_equals_one_that_was_not_stopped(work: Path) -> None:
    whole, rest, base = state(work / "whole/iter_4.pth"), state(work / "rest/iter_4.pth"), torch.load(work / "base.pth")
    assert whole.keys() == rest.keys()
    assert all(torch.equal(tensor, rest[name]) for name, tensor in whole.items())
    plain = {name.removeprefix(PREFIX).replace(".base_layer.", "."): tensor for name, tensor in whole.items()}
    for name in base.keys() & plain.keys():
        assert torch.equal(base[name], plain[name]) is ("norm" not in name), name
    assert {name for name in whole if "lora_B" in name and not whole[name].any()} == set()


def test_the_folder_is_pefts_own(work: Path) -> None:
    folders = [work / name / "peft" for name in ("whole", "rest")]
    for one, other in zip(*[sorted(folder.iterdir()) for folder in folders], strict=True):
        assert one.read_bytes() == other.read_bytes()
    model = timm.create_model(MODEL)
    model.load_state_dict(torch.load(work / "base.pth"))
    merged = peft.PeftModel.from_pretrained(model, str(folders[0])).merge_and_unload().state_dict()
    convert.main([str(work / "whole/iter_4.pth"), str(work / "merged.pth"), "--to", "timm", "--merge"])
    ours = torch.load(work / "merged.pth")["state_dict"]
    assert ours.keys() <= merged.keys()
    assert all(torch.allclose(tensor, merged[name], atol=1e-6) for name, tensor in ours.items())
    assert not set(load_file(folders[0] / REST)) & {name for name in state(work / "whole/iter_4.pth") if PREFIX in name}


def test_a_test_takes_a_checkpoint_for_a_plain_config_and_a_folder(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    merged = run_test(*config(work, "test1", tuned=False), "whole/iter_4.pth")
    assert merged == pytest.approx(run_test(*config(work, "test2", tuned=True), "whole/peft"), abs=0.02)
    (work / "whole/peft" / REST).rename(work / "away")
    with pytest.raises(ValueError, match=r"alone, and a test needs the neck and the heads: `train --save-peft`"):
        run_test(*config(work, "test3", tuned=True), "whole/peft")
    (work / "away").rename(work / "whole/peft" / REST)


def test_a_folder_computes_what_its_checkpoint_does(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    for tuned in (True, False):
        cfg, _ = config(work, "maps", tuned=tuned)
        with as_checkpoint(cfg, "whole/peft") as name:
            found = state(Path(name))
        expected = state(work / "whole/iter_4.pth")
        if tuned:
            assert found.keys() == expected.keys()
            assert all(torch.equal(tensor, expected[key]) for key, tensor in found.items())
        else:
            convert.main(["whole/iter_4.pth", "merged_model.pth", "--merge"])
            merged = state(work / "merged_model.pth")
            assert merged.keys() == found.keys()
            assert all(torch.allclose(tensor, found[key], atol=1e-6) for key, tensor in merged.items())
            assert not [key for key in found if "lora_" in key]
            with pytest.raises(ValueError, match="none to merge"):
                convert.main(["merged_model.pth", "again.pth", "--merge"])
            with pytest.raises(ValueError, match="give --to, the key names of the backbone; or --merge"):
                convert.main(["merged_model.pth", "again.pth"])


def test_extraction_takes_all_of_them(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    convert.main(["whole/iter_4.pth", "merged.safetensors", "--to", "timm", "--merge"])
    features = []
    for index, source in enumerate(("whole/iter_4.pth", "whole/peft", "merged.safetensors")):
        out = f"features{index}"
        options = ["--backbone", MODEL, "--checkpoint", source, "--workers", "0", "--engine", "local", "--out", out]
        assert extract.main(["shapes/images/val", *options]) == 0
        features.append(load_file(min(Path(out).rglob("*.safetensors"))))
    for other in features[1:]:
        assert all(torch.allclose(other[key].float(), one.float(), atol=1e-4) for key, one in features[0].items())


def small(**options: Any) -> Config:
    return ready(retinanet(peft=dict(type="DoRA", r=2, **options)))


def maps(model: nn.Module) -> tuple[Tensor, ...]:
    with torch.no_grad():
        outcome: tuple[Tensor, ...] = model.eval().backbone(torch.ones(1, 3, 64, 64))
    return outcome


def test_a_tuned_detector_starts_from_a_plain_one(tmp_path: Path) -> None:
    plain, path = build(retinanet()), tmp_path / "plain.pth"
    torch.save({"state_dict": plain.state_dict()}, path)
    tuned = MODELS.build(small().model)
    contents = read_model(str(path))
    assert settle_for(tuned, contents) == "it holds no low-rank factors: those of the model start without effect"
    fit, _ = check_partial(tuned, contents, "plain.pth")
    assert not fit.fresh
    assert not fit.unexpected
    for one, other in zip(maps(tuned), maps(plain), strict=True):
        assert (one - other).norm() < 1e-5 * other.norm()


def test_factors_of_another_scaling_or_rank_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "tuned.pth"
    torch.save({"state_dict": MODELS.build(small().model).state_dict()}, path)
    for options, message in ({"alpha": 2}, "scaled by 2, and here by 1"), ({"targets": "mlp"}, "not in it"):
        with pytest.raises(ValueError, match=message):
            check_whole(MODELS.build(small(**options).model), read_model(str(path)), "tuned.pth")


def test_heads_that_share_tensors_are_saved(tmp_path: Path) -> None:
    model = MODELS.build(small().model)
    state = {**model.state_dict(), "bbox_head.again": model.state_dict()["bbox_head.retina_cls.bias"]}
    write_folder(tmp_path, model, state, "timm")
    saved = load_file(tmp_path / REST)
    assert torch.equal(saved["bbox_head.again"], saved["bbox_head.retina_cls.bias"])


def test_saving_a_folder_needs_a_tuned_backbone(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    with pytest.raises(ValueError, match=r"--save-peft writes low-rank factors, and the config's backbone has none"):
        train.main(["tiny.py", "--work-dir", "none", "--save-peft", "--backbone", MODEL])
