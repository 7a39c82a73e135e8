"""Training and testing a config, of mmdet or mmseg alike, with mmengine's Runner.

What mmengine has is mmengine's; what is here makes the CPU as good a place to train as a GPU, finds mistakes before the
run starts, and keeps a resumed or tested run from loading pretrained weights that its checkpoint replaces at once.
"""

import argparse
import importlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, DictAction
from mmengine.device import get_device
from mmengine.registry import RUNNERS, init_default_scope

from adapters.openmmlab.batch_padding import describe_batch_padding
from adapters.openmmlab.checked_runner import CheckedRunner
from adapters.openmmlab.checkpoint_hook import use_atomic_checkpoints
from adapters.openmmlab.config_files import find_config
from adapters.openmmlab.cpu_training import choose_precision, distribute_on_cpu
from adapters.openmmlab.data_check import check_dataset
from adapters.openmmlab.evaluation import EvaluationOptions, augment_tests, set_outputs
from adapters.openmmlab.fit import check_fit, fit_backbone
from adapters.openmmlab.operators.finder import NOTE, WITHOUT_COMPILED, are_served, is_of_extension
from adapters.openmmlab.peft_folders import as_checkpoint, save_folders, weights_of_backbone
from adapters.openmmlab.start import check_start, choose_start, existing_checkpoint
from adapters.registry import OPENMMLAB_REMEDY

SCOPES = ("mmdet", "mmseg")


def load_config(
    name: str,
    *,
    backbone: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    work_dir: str | None = None,
    launcher: str = "none",
    local_rank: int = 0,
) -> tuple[Config, list[str]]:
    """Load a config, override its settings and swap its backbone, and prepare it for several processes.

    Overrides of the backbone's own settings come after the swap, so that they reach the new one.

    Args:
        name: a path, or the name of a shipped config: see :func:`find_config`.
        backbone: a timm model that replaces the config's own backbone.
        overrides: values by dotted keys, such as ``{'train_dataloader.batch_size': 4}``.
        work_dir: folder for logs and checkpoints; default: the config's own, or ``work_dirs/NAME``.
        launcher: ``'none'``, ``'pytorch'``, ``'slurm'`` or ``'mpi'``.
        local_rank: number of this process on its machine, where the launcher does not set ``LOCAL_RANK``.

    Returns:
        The config, and notes for the user.

    Raises:
        ValueError: the config does not exist or is of another package, or the backbone cannot be swapped.
        ModuleNotFoundError: mmdet or mmseg is not installed.
    """
    path = find_config(name)
    settings = dict(overrides or {})
    cfg = Config.fromfile(path)
    notes: list[str] = []
    if backbone:
        cfg.merge_from_dict({key: value for key, value in settings.items() if ".backbone." not in key})
    else:
        cfg.merge_from_dict(settings)
    register_scope(cfg)
    if backbone:
        notes += fit_backbone(cfg, backbone, overrides=settings)
    cfg.work_dir = str(Path(work_dir or cfg.get("work_dir") or Path("work_dirs", path.stem)).resolve())
    os.environ.setdefault("LOCAL_RANK", str(local_rank))
    cfg.launcher = launcher
    if cfg.launcher != "none" and get_device() == "cpu":
        notes += distribute_on_cpu(cfg)
    return cfg, notes


def parse_overrides(words: Sequence[str]) -> dict[str, Any]:
    """Read ``KEY=VALUE`` words of a command line as mmengine does: ``V1,V2`` and ``[(a,b),(c,d)]`` are sequences.

    Raises:
        ValueError: a word has no ``=``.
    """
    if bad := [word for word in words if "=" not in word]:
        raise ValueError(f"--cfg-options takes KEY=VALUE, got {bad[0]!r}: write it like train_dataloader.batch_size=4.")
    namespace = argparse.Namespace()
    DictAction(["--cfg-options"], "overrides", nargs="+")(argparse.ArgumentParser(), namespace, list(words))
    return namespace.overrides


def train(
    cfg: Config,
    notes: Sequence[str] = (),
    *,
    resume: str | None = None,
    amp: bool = False,
    auto_scale_lr: bool = False,
    save_peft: bool = False,
) -> None:
    """Train a config.

    Args:
        cfg: of :func:`load_config`. Changed in place.
        notes: lines for the log.
        resume: a checkpoint to go on from; ``'auto'`` for the latest one in the work directory.
        amp: mixed precision, fp16 on a GPU and bfloat16 on the CPU.
        auto_scale_lr: scale the learning rate to the batch size, as the config says.
        save_peft: write what low-rank tuning trains as a folder of peft's, too.

    Raises:
        ValueError: a mistake in the arguments or the config, with the remedy.
        FileNotFoundError: the dataset is not there, with the command that makes it.
    """
    notes = [*notes, *choose_precision(cfg, amp)]
    if auto_scale_lr:
        enable_auto_scale_lr(cfg)
    use_atomic_checkpoints(cfg)
    notes += choose_start(cfg, resume)
    check_fit(cfg)
    check_dataset(cfg, ("train_dataloader", "val_dataloader"))
    weights = weights_of_backbone(cfg.model)
    start = check_start(cfg, to_train=True)
    if save_peft:
        save_folders(cfg, cfg.load_from if start.gives_backbone else weights)
    _run(cfg, [*notes, *start.notes], "train", start.left_out)


def test(
    cfg: Config,
    notes: Sequence[str],
    checkpoint: str,
    options: EvaluationOptions | None = None,  # noqa: PT028, it is no test of pytest's
) -> dict[str, float]:
    """Evaluate a checkpoint on a config's test split.

    Args:
        cfg: of :func:`load_config`. Changed in place.
        notes: lines for the log.
        checkpoint: path or URL.
        options: what it writes besides the metrics, and test-time augmentation.

    Returns:
        The metrics, by their names in the log.

    Raises:
        ValueError: a mistake in the arguments or the config, with the remedy.
        FileNotFoundError: the dataset is not there, with the command that makes it.
    """
    existing_checkpoint(checkpoint)
    cfg.resume = False
    options = options or EvaluationOptions()
    notes = [*notes, *set_outputs(cfg, options)]
    check_fit(cfg)
    check_dataset(cfg, ("test_dataloader",))
    with as_checkpoint(cfg, checkpoint) as cfg.load_from:
        start = check_start(cfg, to_train=False)
        if options.tta:
            notes += augment_tests(cfg)
        return _run(cfg, [*notes, *start.notes], "test", start.left_out)


def register_scope(cfg: Config) -> None:
    """Register the modules of the package that a config is for.

    Raises:
        ValueError: ``default_scope`` is not one of :data:`SCOPES`.
        ModuleNotFoundError: the package, or mmcv, is not installed, or mmcv was compiled for another torch.
    """
    scope = cfg.get("default_scope")
    if scope not in SCOPES:
        raise ValueError(
            f"default_scope={scope!r} in {cfg.filename}: it must be one of {', '.join(SCOPES)}. Inherit from that "
            "package's default_runtime.py, or set it with `--cfg-options default_scope=mmdet`."
        )
    try:
        importlib.import_module("mmcv.ops")  # first, because mmdet and mmseg pass over some of its errors
        utils = importlib.import_module(f"{scope}.utils")
    except ModuleNotFoundError as error:
        if error.name not in (scope, "mmcv"):
            raise
        raise ModuleNotFoundError(
            f"this config needs {scope}, but {error.name} is missing: {OPENMMLAB_REMEDY}."
        ) from error
    except ImportError as error:
        if not is_of_extension(error):
            raise
        raise ModuleNotFoundError(
            f"mmcv's compiled operators cannot be loaded ({error}), perhaps because they are of another torch: "
            f"{WITHOUT_COMPILED}."
        ) from error
    utils.register_all_modules(init_default_scope=False)
    init_default_scope(scope)


def enable_auto_scale_lr(cfg: Config) -> None:
    """Switch on mmengine's linear scaling of the learning rate.

    Raises:
        ValueError: the config does not say for which batch size its learning rate is.
    """
    if "base_batch_size" not in cfg.get("auto_scale_lr", {}):
        raise ValueError(
            "--auto-scale-lr needs to know for which batch size the learning rate is: set "
            "auto_scale_lr=dict(base_batch_size=...) in the config, or with --cfg-options."
        )
    cfg.auto_scale_lr.enable = True


def _run(cfg: Config, notes: Sequence[str], task: str, left_out: frozenset[str]) -> Any:
    """Build the runner, log the notes, and run ``'train'`` or ``'test'``; return what that returns.

    Args:
        cfg: of the run.
        notes: lines for the log.
        task: ``'train'`` or ``'test'``.
        left_out: names of the checkpoint's tensors that are not to be loaded, though they fit.
    """
    runner = RUNNERS.build(cfg) if "runner_type" in cfg else CheckedRunner.from_cfg(cfg)
    runner.left_out = left_out
    padding = describe_batch_padding(cfg.model)
    operators = [NOTE] if are_served() else []
    for note in [*operators, *notes, *([f"batch_padding {padding}"] if padding else [])]:
        runner.logger.info(note)
    result = getattr(runner, task)()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return result
