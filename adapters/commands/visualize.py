"""The command ``dense-adapters visualize``."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adapters.commands.extract import add_input_arguments, interruptible, options_of, report
from adapters.extraction.building import RANDOM, build_extractor, read_config
from adapters.extraction.gallery import draw_gallery
from adapters.extraction.inputs import find_images
from adapters.extraction.run import run_extraction
from adapters.openmmlab.config_files import find_config, is_config_name

EPILOG = """examples:
  dense-adapters visualize photos --backbone twins_svt_small resnet50 --out work_dirs/features
  dense-adapters visualize photos --backbone resnet50 resnet50 --checkpoint timm mine.pth --out DIR

The features are those of `dense-adapters extract`, kept in OUT/model0, OUT/model1; a second run reuses them."""


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the command."""
    parser = argparse.ArgumentParser(
        prog="dense-adapters visualize",
        description="Draw the feature maps of models side by side: a sheet per image, and a gallery.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_input_arguments(parser)
    parser.add_argument(
        "--backbone",
        nargs="+",
        metavar="NAME",
        required=True,
        help="timm models, or configs whose backbone is one of the adapters: a path, or adapters::NAME",
    )
    parser.add_argument(
        "--checkpoint",
        nargs="+",
        metavar="FILE",
        default=["timm"],
        help="one for all or one for each: path, URL, timm, random",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Extract with each model and draw; return 0, 1 if an image failed, 130 if interrupted.

    Raises:
        ValueError: a mistake in the arguments, with the remedy.
    """
    args = make_parser().parse_args(arguments)
    checkpoints = args.checkpoint * len(args.backbone) if len(args.checkpoint) == 1 else args.checkpoint
    if len(checkpoints) != len(args.backbone):
        raise ValueError(
            f"--checkpoint names {len(args.checkpoint)} for {len(args.backbone)} models: give one, or one for each."
        )
    folders = [args.out / f"model{number}" for number in range(len(args.backbone))]
    options = [options_of(args, "pyramid", folder) for folder in folders]
    paths = find_images(args.input, args.image_root, exclude=args.out)
    models: dict[str, Path] = {}
    failed = False
    with interruptible(args.out):
        for number, (name, checkpoint) in enumerate(zip(args.backbone, checkpoints, strict=True)):
            folder = folders[number]
            config: dict[str, Any] = {"model_name": name, "weights": "timm"}
            preprocessing: dict[str, Any] = {}
            if is_config_name(name):
                config, preprocessing = read_config(str(find_config(name)))
            if args.in_channels is not None:
                config["in_channels"] = args.in_channels
            extractor = build_extractor(config, options[number], checkpoint, args.seed, **preprocessing)
            summary = run_extraction(paths, extractor, folder, args.workers, args.engine)
            report(summary, folder)
            failed |= bool(summary.failures)
            title = f"{name}, {'random weights' if checkpoint == RANDOM else checkpoint}"
            models[title if title not in models else f"{title} ({number})"] = folder
        print(f"gallery: {draw_gallery(args.out, models)}")
    return int(failed)
