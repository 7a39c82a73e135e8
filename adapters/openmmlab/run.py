"""Training and testing a config, of mmdet or mmseg alike, with mmengine's Runner.

``tools/train.py`` and ``tools/test.py`` are these two functions. What mmengine has is mmengine's; what is here makes
the CPU as good a place to train as a GPU, finds mistakes before the run starts, and keeps a resumed or tested run from
loading pretrained weights that its checkpoint replaces at once.
"""

import argparse
import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, DictAction
from mmengine.device import get_device
from mmengine.registry import RUNNERS, init_default_scope
from mmengine.runner import Runner

from adapters.openmmlab.checkpoint_hook import keep_checkpoints_whole, latest_checkpoint
from adapters.openmmlab.config_files import find_config
from adapters.openmmlab.data_check import check_dataset
from adapters.openmmlab.devices import choose_precision, distribute_on_cpu
from adapters.openmmlab.fit import check_fit, drop_pretrained, fit_backbone
from adapters.registry import OPENMMLAB_REMEDY

SCOPES = ("mmdet", "mmseg")


def run_training(arguments: Sequence[str] | None = None) -> None:
    """Train a config: the command line of ``tools/train.py``.

    Raises:
        ValueError: a mistake in the arguments or the config, with the remedy.
        FileNotFoundError: the dataset is not there, with the command that makes it.
    """
    parser = make_parser("Train an mmdet or mmseg config.")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="go on from a checkpoint; without a path, from the latest one in the work directory",
    )
    parser.add_argument("--amp", action="store_true", help="mixed precision: fp16 on a GPU, bfloat16 on the CPU")
    parser.add_argument(
        "--auto-scale-lr", action="store_true", help="scale the learning rate to the batch size, as the config says"
    )
    args = parser.parse_args(arguments)
    cfg, notes = load_config(args)
    notes += choose_precision(cfg, args.amp)
    if args.auto_scale_lr:
        enable_auto_scale_lr(cfg)
    keep_checkpoints_whole(cfg)
    notes += choose_start(cfg, args.resume)
    check_fit(cfg)
    check_dataset(cfg, ("train_dataloader", "val_dataloader"))
    run(cfg, notes, "train")


def run_testing(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Evaluate a checkpoint on a config's test split: the command line of ``tools/test.py``.

    Returns:
        The metrics, by their names in the log.

    Raises:
        ValueError: a mistake in the arguments or the config, with the remedy.
        FileNotFoundError: the dataset is not there, with the command that makes it.
    """
    parser = make_parser("Evaluate a checkpoint of an mmdet or mmseg config on its test split.")
    parser.add_argument("checkpoint", help="path or URL of the checkpoint")
    args = parser.parse_args(arguments)
    cfg, notes = load_config(args)
    cfg.load_from = existing_checkpoint(args.checkpoint)
    cfg.resume = False
    notes += set_pretrained_aside(cfg, cfg.load_from)
    check_fit(cfg)
    check_dataset(cfg, ("test_dataloader",))
    return run(cfg, notes, "test")


def make_parser(description: str) -> argparse.ArgumentParser:
    """The arguments that training and testing share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("config", help="path of the config, or mmdet::NAME or mmseg::NAME for one that ships with them")
    parser.add_argument("--work-dir", help="folder for logs and checkpoints; default: work_dirs/NAME OF THE CONFIG")
    parser.add_argument(
        "--backbone",
        metavar="NAME",
        help="swap the config's backbone for this timm model, and fit neck and heads to it",
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        default={},
        metavar="KEY=VALUE",
        help="settings that override the config's: KEY=VALUE, KEY=V1,V2, KEY='[(a,b),(c,d)]'; dots lead inside",
    )
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none", help="job launcher")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help="set by old launchers")
    return parser


def load_config(args: argparse.Namespace) -> tuple[Config, list[str]]:
    """Load a config with the overrides and the backbone of the command line.

    Overrides of the backbone's own settings come after the swap, so that they reach the new one.

    Returns:
        The config, and what to tell the user.

    Raises:
        ValueError: the config does not exist or is of another package, or the backbone cannot be swapped.
        ModuleNotFoundError: mmdet or mmseg is not installed.
    """
    path = find_config(args.config)
    cfg = Config.fromfile(path)
    notes: list[str] = []
    if args.backbone:
        cfg.merge_from_dict({key: value for key, value in args.cfg_options.items() if ".backbone." not in key})
    else:
        cfg.merge_from_dict(args.cfg_options)
    register_scope(cfg)
    if args.backbone:
        notes += fit_backbone(cfg, args.backbone)
        cfg.merge_from_dict(args.cfg_options)
    cfg.work_dir = str(Path(args.work_dir or cfg.get("work_dir") or Path("work_dirs", path.stem)).resolve())
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    cfg.launcher = args.launcher
    if cfg.launcher != "none" and get_device() == "cpu":
        notes += distribute_on_cpu(cfg)
    return cfg, notes


def register_scope(cfg: Config) -> None:
    """Register the modules of the package that a config is for."""
    scope = cfg.get("default_scope")
    if scope not in SCOPES:
        raise ValueError(
            f"default_scope={scope!r} in {cfg.filename}: it must be one of {', '.join(SCOPES)}. Inherit from that "
            "package's default_runtime.py, or set it with `--cfg-options default_scope=mmdet`."
        )
    try:
        utils = importlib.import_module(f"{scope}.utils")
    except ModuleNotFoundError as error:
        if error.name not in (scope, "mmcv", "mmcv._ext"):
            raise
        raise ModuleNotFoundError(
            f"this config needs {scope}, but {error.name} is missing: {OPENMMLAB_REMEDY}."
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


def choose_start(cfg: Config, resume: str | None) -> list[str]:
    """Decide from which checkpoint a run goes on, if any; the command line comes before the config.

    Raises:
        ValueError: the checkpoint does not exist.
    """
    if resume is None and cfg.get("resume"):
        resume = cfg.get("load_from") or "auto"
    if resume is None:
        return []
    path = latest_checkpoint(cfg.work_dir) if resume == "auto" else existing_checkpoint(resume)
    cfg.resume = path is not None
    if path is None:
        return [f"nothing to resume in {cfg.work_dir}: training starts from the beginning"]
    cfg.load_from = path
    return [f"resuming from {path}", *set_pretrained_aside(cfg, path)]


def existing_checkpoint(path: str) -> str:
    """Check that a checkpoint exists, unless it is a URL."""
    if "://" not in path and not Path(path).is_file():
        raise ValueError(f"there is no checkpoint {path!r} (from {Path.cwd()}).")
    return path


def set_pretrained_aside(cfg: Config, checkpoint: str) -> list[str]:
    """Remove what would load or download pretrained weights, since a checkpoint replaces them all.

    mmengine's Runner initialises the weights before it resumes.
    """
    sources = dict.fromkeys(drop_pretrained(cfg.model))
    return [f"pretrained weights set aside, {checkpoint} replaces them: {', '.join(sources)}"] if sources else []


def run(cfg: Config, notes: Sequence[str], task: str) -> Any:
    """Build the runner, log the notes, and run ``'train'`` or ``'test'``; return what that returns."""
    runner = RUNNERS.build(cfg) if "runner_type" in cfg else Runner.from_cfg(cfg)
    for note in notes:
        runner.logger.info(note)
    result = getattr(runner, task)()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return result
