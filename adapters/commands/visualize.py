"""The command line of ``tools/visualize_features.py``."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from adapters.commands.extract import add_input_arguments, interruptible, options_of, report
from adapters.extraction.building import RANDOM, build_extractor
from adapters.extraction.gallery import draw_gallery
from adapters.extraction.inputs import find_images
from adapters.extraction.run import run_extraction


def visualize_features(arguments: Sequence[str] | None = None, description: str | None = None) -> int:
    """Extract with each model and draw; returns the exit code: 0, 1 if an image failed, 130 if interrupted.

    Raises:
        ValueError: a mistake in the arguments, with the remedy.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_input_arguments(parser)
    parser.add_argument("--backbone", nargs="+", metavar="NAME", required=True, help="timm models")
    parser.add_argument(
        "--checkpoint",
        nargs="+",
        metavar="FILE",
        default=["timm"],
        help="one for all or one for each: path, URL, timm, random",
    )
    args = parser.parse_args(arguments)
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
            extractor = build_extractor(name, options[number], checkpoint, args.seed)
            summary = run_extraction(paths, extractor, folder, args.workers, args.engine)
            report(summary, folder)
            failed |= bool(summary.failures)
            title = f"{name}, {'random weights' if checkpoint == RANDOM else checkpoint}"
            models[title if title not in models else f"{title} ({number})"] = folder
        print(f"gallery: {draw_gallery(args.out, models)}")
    return int(failed)
