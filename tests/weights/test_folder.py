"""Folders that are checkpoints: which file is read, what is told, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from adapters.weights.download import fetch_contents

STATE = {"conv.weight": torch.randn(2, 3), "conv.bias": torch.randn(2)}
OTHER = {"conv.weight": torch.zeros(2, 3), "conv.bias": torch.zeros(2)}


def index_of(folder: Path, name: str, shards: dict[str, dict[str, torch.Tensor]]) -> None:
    weight_map = {key: shard for shard, state in shards.items() for key in state}
    (folder / name).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def hugging_face(folder: Path) -> None:
    save_file(STATE, str(folder / "model.safetensors"))
    torch.save(OTHER, folder / "pytorch_model.bin")
    (folder / "config.json").write_text("{}")


def open_clip(folder: Path) -> None:
    torch.save(STATE, folder / "open_clip_pytorch_model.bin")


def shards(folder: Path) -> None:
    parts = {f"model-0000{number}-of-00002.safetensors": {key: STATE[key]} for number, key in enumerate(STATE, 1)}
    for name, part in parts.items():
        save_file(part, str(folder / name))
    index_of(folder, "model.safetensors.index.json", parts)


def accelerate(folder: Path) -> None:
    torch.save(STATE, folder / "pytorch_model.bin")
    for name in ("optimizer.bin", "scheduler.bin", "random_states_0.pkl", "scaler.pt", "training_args.bin"):
        torch.save({"state": torch.ones(1)}, folder / name)


def lightning(folder: Path) -> None:
    torch.save(STATE, folder / "epoch=1-step=20.ckpt")
    (folder / "metrics.csv").write_text("a,b")


def deepspeed(folder: Path) -> None:
    for step in (5, 10):
        (folder / f"global_step{step}").mkdir()
        contents = {"module": STATE if step == 10 else OTHER, "optimizer": None, "ds_config": {}}
        torch.save(contents, folder / f"global_step{step}" / "mp_rank_00_model_states.pt")
    (folder / "latest").write_text("global_step10\n")


def deepspeed_in_lightning(folder: Path) -> None:
    (folder / "checkpoint").mkdir()
    half = {key: tensor.bfloat16() for key, tensor in STATE.items()}
    torch.save({"module": half}, folder / "checkpoint" / "mp_rank_00_model_states.pt")
    torch.save({}, folder / "checkpoint" / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt")


FOLDERS: dict[Callable[[Path], None], str] = {
    hugging_face: "its model.safetensors, not pytorch_model.bin",
    open_clip: "its open_clip_pytorch_model.bin",
    shards: "its model.safetensors.index.json",
    accelerate: "its pytorch_model.bin",
    lightning: "its epoch=1-step=20.ckpt",
    deepspeed: "its mp_rank_00_model_states.pt",
    deepspeed_in_lightning: "its mp_rank_00_model_states.pt; "
    "16-bit copies of the weights that zero_to_fp32.py would write",
}


@pytest.mark.parametrize("make", FOLDERS)
@pytest.mark.parametrize("scheme", ["", "local-dir:", "file://"])
def test_a_folder_with_one_checkpoint(tmp_path: Path, make: Callable[[Path], None], scheme: str) -> None:
    make(tmp_path)
    contents = fetch_contents(f"{scheme}{tmp_path}")
    found = contents.get("module", contents)
    assert all(
        torch.equal(found[key].to(tensor.dtype), tensor.to(found[key].dtype).to(tensor.dtype))
        for key, tensor in STATE.items()
    )
    assert contents.title("f") == f"f ({FOLDERS[make]})"


def empty(folder: Path) -> None:
    (folder / "notes.txt").write_text("nothing")


def deeper(folder: Path) -> None:
    (folder / "checkpoints").mkdir()


def several(folder: Path) -> None:
    for name in ("last.ckpt", "best.pth"):
        torch.save(STATE, folder / name)


def lost_shard(folder: Path) -> None:
    shards(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def older_shard(folder: Path) -> None:
    shards(folder)
    save_file({"other": torch.ones(1)}, str(folder / "model-00002-of-00002.safetensors"))


def escaping_shard(folder: Path) -> None:
    index_of(folder, "model.safetensors.index.json", {"../secret.bin": STATE})


def odd_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text("[]")


def third_stage(folder: Path) -> None:
    for rank in (0, 1):
        torch.save({"module": {}}, folder / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt")


def cut_model(folder: Path) -> None:
    for rank in (0, 1):
        torch.save({"module": STATE}, folder / f"mp_rank_0{rank}_model_states.pt")


def pipeline(folder: Path) -> None:
    torch.save({"module": None}, folder / "mp_rank_00_model_states.pt")


def lost_tag(folder: Path) -> None:
    deepspeed(folder)
    (folder / "latest").write_text("../global_step7")


def no_tag(folder: Path) -> None:
    deepspeed(folder)
    (folder / "latest").unlink()


REFUSED: dict[Callable[[Path], None], str] = {
    empty: r"is a folder without a checkpoint \(\.pth.*name another one",
    deeper: r"without a checkpoint .* it has the folders checkpoints",
    several: r"is a folder with 2 checkpoints; name one of them: best\.pth, last\.ckpt",
    lost_shard: r"lacks 1 of the 2 files that model\.safetensors\.index\.json lists: model-00002",
    older_shard: r"lacks 1 of the tensors that model\.safetensors\.index\.json lists: conv\.bias; .*another version",
    escaping_shard: r"lists files outside of its folder",
    odd_index: r"is no index of shards",
    third_stage: r"ZeRO stage 3, where each process keeps a piece.*python zero_to_fp32\.py \. weights\.$",
    cut_model: r"has cut into 2 files, by layers or tensors; .*zero_to_fp32\.py",
    pipeline: r"holds no 'module' with the whole model; .*zero_to_fp32\.py",
    lost_tag: r"holds global_step10, global_step5, and its file latest names '\.\./global_step7', which is not there",
    no_tag: r"no file named latest says which is meant; name one of them",
}


@pytest.mark.parametrize("make", REFUSED)
def test_a_folder_that_is_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path)
    with pytest.raises(ValueError, match=REFUSED[make]) as caught:
        fetch_contents(str(tmp_path))
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
