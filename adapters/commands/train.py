"""The command ``dense-adapters train``, and the arguments that it shares with others that take a config."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from adapters.commands.quiet import quiet
from adapters.registry import require_mmengine

if TYPE_CHECKING:
    from mmengine.config import Config

EPILOG = """examples:
  dense-adapters train adapters::retinanet_twins-svt-s_fpn_1x_coco --amp
  dense-adapters train mmdet::retinanet_r50_fpn_1x_coco --backbone twins_svt_small
  dense-adapters train my_config.py --resume --cfg-options train_dataloader.batch_size=4"""

CONFIG_HELP = (
    "path of the config, adapters::NAME for a recipe of this package, or mmdet::NAME or mmseg::NAME for a config that "
    "ships with them"
)


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the command."""
    parser = argparse.ArgumentParser(
        prog="dense-adapters train",
        description="Train an mmdet or mmseg config.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("config", help=CONFIG_HELP)
    add_config_arguments(parser)
    add_run_arguments(parser)
    add(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="go on from a checkpoint; without a path, from the latest one in the work directory",
    )
    add("--amp", action="store_true", help="mixed precision: fp16 on a GPU, bfloat16 on the CPU")
    add("--auto-scale-lr", action="store_true", help="scale the learning rate to the batch size, as the config says")
    add(
        "--save-peft",
        action="store_true",
        help="with a backbone that has peft=...: also write what is trained to WORK_DIR/peft, in the format of peft",
    )
    return parser


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that change a config."""
    parser.add_argument(
        "--backbone",
        metavar="NAME",
        help="swap the config's backbone for this timm model, and fit neck and heads to it",
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="settings that override the config's: KEY=VALUE, KEY=V1,V2, KEY='[(a,b),(c,d)]'; dots lead inside",
    )


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of a run: its folder, its launcher and its output."""
    add = parser.add_argument
    add("--work-dir", help="folder for logs and checkpoints; default: work_dirs/NAME OF THE CONFIG")
    add("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none", help="job launcher")
    add("--local_rank", "--local-rank", type=int, default=0, help="set by old launchers")
    add("--verbose", action="store_true", help="print all that OpenMMLab prints: environment, config, hooks, ...")


def load_config_of(args: argparse.Namespace) -> tuple["Config", list[str]]:
    """Load the config that the arguments of a run name, as they change it; return it and notes for the user."""
    from adapters.openmmlab.run import load_config, parse_overrides

    return load_config(
        args.config,
        backbone=args.backbone,
        overrides=parse_overrides(args.cfg_options),
        work_dir=args.work_dir,
        launcher=args.launcher,
        local_rank=args.local_rank,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Train a config; return 0.

    Raises:
        ValueError: a mistake in the arguments or the config, with the remedy.
        FileNotFoundError: the dataset is not there, with the command that makes it.
    """
    args = make_parser().parse_args(arguments)
    require_mmengine("dense-adapters train")
    from adapters.openmmlab.run import train

    with quiet(show_all=args.verbose):
        train(
            *load_config_of(args),
            resume=args.resume,
            amp=args.amp,
            auto_scale_lr=args.auto_scale_lr,
            save_peft=args.save_peft,
        )
    return 0
