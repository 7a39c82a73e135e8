"""The command ``dense-adapters test``."""

import argparse
from collections.abc import Sequence

from adapters.commands.quiet import quiet
from adapters.commands.train import CONFIG_HELP, add_config_arguments, add_run_arguments, load_config_of
from adapters.registry import require_mmengine

EPILOG = """examples:
  dense-adapters test adapters::retinanet_twins-svt-s_fpn_1x_coco work_dirs/NAME/epoch_12.pth
  dense-adapters test mmseg::fpn_r50_4xb4-160k_ade20k-512x512 FILE --backbone twins_svt_small
  dense-adapters test my_config.py FILE --out predictions.pkl --show-dir painted --tta"""


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the command."""
    parser = argparse.ArgumentParser(
        prog="dense-adapters test",
        description="Evaluate a checkpoint of an mmdet or mmseg config on its test split.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", help=CONFIG_HELP)
    parser.add_argument("checkpoint", help="path or URL of the checkpoint")
    add_config_arguments(parser)
    add_run_arguments(parser)
    parser.add_argument(
        "--out", metavar="PATH", help="write the predictions: FILE.pkl of an mmdet config, a folder of an mmseg config"
    )
    parser.add_argument("--show-dir", metavar="DIR", help="paint the predictions into images in this folder")
    parser.add_argument("--tta", action="store_true", help="merge the predictions of several views of each image")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate a checkpoint; return 0. The metrics are in the log.

    Raises:
        ValueError: a mistake in the arguments or the config, with the remedy.
        FileNotFoundError: the dataset is not there, with the command that makes it.
    """
    args = make_parser().parse_args(arguments)
    require_mmengine("dense-adapters test")
    from adapters.openmmlab.evaluation import EvaluationOptions
    from adapters.openmmlab.run import test

    with quiet(show_all=args.verbose):
        test(*load_config_of(args), args.checkpoint, EvaluationOptions(args.out, args.show_dir, args.tta))
    return 0
