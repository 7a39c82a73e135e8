"""The command ``dense-adapters export``."""

import argparse
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from adapters.commands.train import CONFIG_HELP
from adapters.export import Check, export_backbone
from adapters.export.writing import FORMATS, check_ending
from adapters.factory import create_adapter
from adapters.levels import format_levels
from adapters.registry import require_mmengine

#: The weights that stand for random ones.
RANDOM = "random"

EPILOG = """examples:
  dense-adapters export --backbone twins_svt_small --out twins.onnx
  dense-adapters export --backbone resnet50 --weights mine.pth --out resnet.pt2
  dense-adapters export --backbone swin_tiny_patch4_window7_224 --out swin.onnx --size 800 1344 --batch 1
  dense-adapters export adapters::retinanet_twins-svt-s_fpn_1x_coco work_dirs/NAME/epoch_12.pth --out detector.onnx

Height, width and batch stay free without --size and --batch. The file is run at six sizes and compared with the model
before it gets its name; the table of that lies beside it, in OUT.check.md. A detector or segmentor ends at its heads'
raw outputs; the folder `decoding` beside it, which needs numpy and onnxruntime alone, makes boxes, masks and label maps
of them."""


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the command."""
    parser = argparse.ArgumentParser(
        prog="dense-adapters export",
        description="Write a backbone, or the detector or segmentor of a config, as ONNX or as torch's exported "
        "program, checked by running what was written.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("config", nargs="?", help=f"of a detector or segmentor: {CONFIG_HELP}")
    add("checkpoint", nargs="?", help="path or URL of the config's checkpoint, or random")
    add("--backbone", metavar="NAME", help="a timm model: alone, or in the place of the config's backbone")
    add("--weights", metavar="FILE", help="of a backbone alone: path, URL, timm (the default) or random")
    add("--out-indices", nargs="+", type=int, metavar="N", help="stages or blocks of the model, as in the adapter")
    add(
        "--cfg-options",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="settings that override the config's",
    )
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
    return _export_backbone(args) if args.config is None else _export_config(args)


def _export_backbone(args: argparse.Namespace) -> int:
    options: dict[str, Any] = {"weights": None if args.weights == RANDOM else args.weights or "timm"}
    if args.out_indices:
        options["out_indices"] = tuple(args.out_indices)
    adapter = create_adapter(args.backbone, **options)
    size = tuple(args.size) if args.size else None
    check = export_backbone(adapter, args.out, size=size, batch=args.batch, half=args.half)
    print(f"{args.out}: {adapter.model_name}, {format_levels(adapter.levels)}; {_shapes(args)}")
    report(check, args.out)
    return 0


def _export_config(args: argparse.Namespace) -> int:
    require_mmengine("exporting the model of a config")
    with redirect_stdout(sys.stderr):  # mmdet and mmseg print when they are imported
        from adapters.openmmlab.export.files import export_model, load_model
        from adapters.openmmlab.run import load_config, parse_overrides

        cfg, notes = load_config(args.config, backbone=args.backbone, overrides=parse_overrides(args.cfg_options))
        model, dataset_meta, told = load_model(cfg, args.checkpoint)
        checks, more = export_model(
            cfg,
            model,
            args.out,
            size=tuple(args.size) if args.size else None,
            batch=args.batch,
            half=args.half,
            dataset_meta=dataset_meta,
        )
    for note in [*notes, *told, *more]:
        print(note)
    print(f"{args.out}: {type(model).__name__}; {_shapes(args)}; decoded by {args.out.parent / 'decoding'}")
    for name, check in checks.items():
        report(check, args.out.with_name(name))
    return 0


def check_arguments(args: argparse.Namespace) -> None:
    """Check what can be known before a model is built.

    Raises:
        ValueError: the model is not named, or the file's ending, a size or a number of images is not allowed.
    """
    check_ending(args.out)
    if args.config is None and args.backbone is None:
        raise ValueError("export takes a config and its checkpoint, or --backbone NAME: give one of the two.")
    if args.config is not None and args.checkpoint is None:
        raise ValueError(f"{args.config} needs its checkpoint after it, or `random` for a trial.")
    if args.config is not None and (args.weights or args.out_indices):
        raise ValueError("--weights and --out-indices are for a backbone alone: a checkpoint holds the whole model.")
    if args.config is None and args.cfg_options:
        raise ValueError("--cfg-options changes a config: give one, and its checkpoint, before the options.")
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


def _shapes(args: argparse.Namespace) -> str:
    size = f"{args.size[0]} x {args.size[1]}" if args.size else "any height and width"
    batch = "any batch" if args.batch is None else f"batch {args.batch}"
    return f"{batch}, {size}{', float16' if args.half else ''}"
