"""A training run that is killed at any moment leaves a complete checkpoint to go on from."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook
from mmengine.logging import MessageHub, MMLogger
from mmengine.runner import save_checkpoint

from adapters.openmmlab.checkpoint_hook import AtomicCheckpointHook, latest_checkpoint, use_atomic_checkpoints


class Killed(BaseException):
    """Stands for a signal: nothing that follows in the process runs."""


def runner_in(folder: Path) -> Any:
    """As much of a runner as the hook asks, which saves its number of iterations."""

    def save(out_dir: str, filename: str, *_: Any, meta: Any, backend_args: Any = None, **__: Any) -> None:
        save_checkpoint({"iter": meta["iter"]}, str(Path(out_dir, filename)), backend_args=backend_args)

    hub = MessageHub.get_instance(folder.name)
    logger = MMLogger.get_instance(folder.name)
    return SimpleNamespace(work_dir=str(folder), message_hub=hub, logger=logger, save_checkpoint=save, iter=0, epoch=0)


def train(hook: CheckpointHook, runner: Any, steps: int) -> None:
    hook.before_train(runner)
    for runner.iter in range(steps):
        hook._save_checkpoint(runner)


def kill_in(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, call: int) -> None:
    """Have a function's nth call end the process, after a part of its work where it writes."""
    real, calls = getattr(owner, name), []

    def killing(*arguments: Any, **named: Any) -> Any:
        calls.append(arguments)
        if len(calls) == call:
            raise Killed
        return real(*arguments, **named)

    monkeypatch.setattr(owner, name, killing)


@pytest.mark.parametrize(
    ("owner", "name", "call", "keep", "expected"),
    [
        (os, "fsync", 3, 1, 2),  # the third file is written, and has not its name yet
        (os, "replace", 3, 1, 2),
        (os, "replace", 3, 2, 2),
        (LocalBackend, "remove", 1, 1, 2),  # the second is there and named, and the first is not gone yet
        (LocalBackend, "remove", 1, 2, 3),
    ],
)
def test_killed_at_any_moment(
    owner: Any, name: str, call: int, keep: int, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = AtomicCheckpointHook(interval=1, by_epoch=False, max_keep_ckpts=keep)
    with monkeypatch.context() as patch:
        kill_in(patch, owner, name, call)
        with pytest.raises(Killed):
            train(hook, runner_in(tmp_path), 5)
    assert torch.load(str(latest_checkpoint(str(tmp_path))))["iter"] == expected


@pytest.mark.parametrize("keep", [-1, 1, 2])
def test_as_many_are_kept_as_asked(keep: int, tmp_path: Path) -> None:
    train(AtomicCheckpointHook(interval=1, by_epoch=False, max_keep_ckpts=keep), runner_in(tmp_path), 4)
    steps = [1, 2, 3, 4]
    assert sorted(path.name for path in tmp_path.glob("*.pth")) == [
        f"iter_{step}.pth" for step in steps[-max(keep, 0) :]
    ]
    assert not list(tmp_path.glob(".*.part"))


def write(path: Path, step: int, when: int) -> Path:
    torch.save({"iter": step}, path)
    os.utime(path, (when, when))
    return path


def test_the_newest_complete_one_where_the_named_one_is_not(tmp_path: Path) -> None:
    work_dir = str(tmp_path)
    assert latest_checkpoint(work_dir) is None
    old, new = write(tmp_path / "iter_9.pth", 9, when=1), write(tmp_path / "iter_10.pth", 10, when=2)
    assert latest_checkpoint(work_dir) == str(new)
    name = tmp_path / "last_checkpoint"
    name.write_text(f"/moved/away/{old.name}")
    assert latest_checkpoint(work_dir) == str(old)
    for nothing in ("", str(tmp_path / "iter_11.pth")):  # killed while it was written; before its file was
        name.write_text(nothing)
        assert latest_checkpoint(work_dir) == str(new)
    new.write_bytes(new.read_bytes()[:-40])
    assert latest_checkpoint(work_dir) == str(old)
    old.unlink()
    with pytest.raises(ValueError, match=r"names .*iter_11\.pth, which does not exist or is incomplete.*--resume PATH"):
        latest_checkpoint(work_dir)


@pytest.mark.parametrize(
    ("hooks", "expected"),
    [
        ({}, "AtomicCheckpointHook"),
        ({"checkpoint": {"type": "CheckpointHook", "interval": 7}}, "AtomicCheckpointHook"),
        ({"checkpoint": {"type": "OfTheUser"}}, "OfTheUser"),
    ],
)
def test_the_hook_of_mmengine_alone_is_replaced(hooks: dict[str, Any], expected: str) -> None:
    cfg = Config({"default_hooks": hooks} if hooks else {})
    use_atomic_checkpoints(cfg)
    assert cfg.default_hooks.checkpoint.pop("type") == expected
    assert cfg.default_hooks.checkpoint == {key: v for key, v in hooks.get("checkpoint", {}).items() if key != "type"}
    switched_off = Config({"default_hooks": {"checkpoint": None}})
    use_atomic_checkpoints(switched_off)
    assert switched_off.default_hooks.checkpoint is None
