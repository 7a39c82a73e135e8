"""The command ``dense-adapters export``."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adapters.base import BackboneAdapter
from adapters.export import Check, export_backbone
from adapters.export.writing import FORMATS, check_ending
from adapters.factory import create_adapter
from adapters.levels import format_levels

#: The weights that stand for random ones.
RANDOM = "random"

EPILOG = """examples:
  dense-adapters export --backbone twins_svt_small --out twins.onnx
  dense-adapters export --backbone resnet50 --weights mine.pth --out resnet.pt2
  dense-adapters export --backbone swin_tiny_patch4_window7_224 --out swin.onnx --size 800 1344 --batch 1

Height, width and batch stay free without --size and --batch. The file is run at six sizes and compared with the model
before it gets its name; the table of that lies beside it, in OUT.check.md."""


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the command."""
    parser = argparse.ArgumentParser(
        prog="dense-adapters export",
        description="Write a backbone as ONNX or as torch's exported program, checked by running what was written.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--backbone", metavar="NAME", required=True, help="a timm model")
    add("--weights", metavar="FILE", default="timm", help="path, URL, timm (the default) or random")
    add("--out-indices", nargs="+", type=int, metavar="N", help="stages or blocks of the model, as in the adapter")
    add_file_arguments(parser)
    return parser


def add_file_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say what is written."""
    add = parser.add_argument
    add("--out", metavar="FILE", type=Path, required=True, help=f"the file to write, {' or '.join(FORMATS)}")
    add("--size", nargs=2, type=int, metavar=("H", "W"), help="fix height and width, in pixels; default: any")
    add("--batch", type=int, metavar="N", help="fix the number of images; default: any")
    add("--half", action="store_true", help="compute in float16; the image and the maps stay float32")


def main(arguments: Sequence[str] | None = None) -> int:
    """Export a model; return 0.

    Raises:
        ValueError: a mistake in the arguments, a model that cannot be exported, or a file that differs from it.
        ModuleNotFoundError: a library of ONNX is not installed.
    """
    args = make_parser().parse_args(arguments)
    check_arguments(args)
    options: dict[str, Any] = {"weights": None if args.weights == RANDOM else args.weights}
    if args.out_indices:
        options["out_indices"] = tuple(args.out_indices)
    adapter = create_adapter(args.backbone, **options)
    size = tuple(args.size) if args.size else None
    check = export_backbone(adapter, args.out, size=size, batch=args.batch, half=args.half)
    print(f"{args.out}: {_describe(adapter, args)}")
    report(check, args.out)
    return 0


def check_arguments(args: argparse.Namespace) -> None:
    """Check what can be known before a model is built.

    Raises:
        ValueError: the file's ending, a size or a number of images is not allowed.
    """
    check_ending(args.out)
    if args.size and min(args.size) < 1:
        raise ValueError(f"--size {args.size[0]} {args.size[1]} must be two positive numbers of pixels.")
    if args.batch is not None and args.batch < 1:
        raise ValueError(f"--batch {args.batch} must be a positive number of images; leave it out for any number.")


def report(check: Check, path: Path) -> None:
    """Print the table of a file's check."""
    print(f"\n{check}")
    print(
        f"greatest difference {check.worst:.1e} of an output's largest value, {check.tolerance:.0e} allowed; the table "
        f"is kept in {path.name}.check.md"
    )


def _describe(adapter: BackboneAdapter, args: argparse.Namespace) -> str:
    size = f"{args.size[0]} x {args.size[1]}" if args.size else "any height and width"
    batch = "any batch" if args.batch is None else f"batch {args.batch}"
    return f"{adapter.model_name}, {format_levels(adapter.levels)}; {batch}, {size}{', float16' if args.half else ''}"
