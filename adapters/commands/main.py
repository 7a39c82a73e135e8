"""The command ``dense-adapters``, which hands its arguments to one of the modules beside this file."""

import argparse
import importlib
import sys
from collections.abc import Sequence

from adapters import __version__
from adapters.commands.errors import end_launched_process, one_line_errors

#: Purpose and an example of each command. Its module, of the same name, is imported when it is given.
COMMANDS = {
    "train": ("train an mmdet or mmseg config", "mmdet::retinanet_r50_fpn_1x_coco --backbone twins_svt_small"),
    "test": ("evaluate a checkpoint on a config's test split", "CONFIG work_dirs/NAME/epoch_12.pth"),
    "describe": ("levels, parameters and multiply-adds of models and configs", "twins_svt_small"),
    "layer-decay": (
        "the optimiser's groups under layer-wise learning-rate decay",
        "adapters::upernet_vit-base-rope_160k_ade20k-512x512",
    ),
    "extract": ("feature maps of images, a file each", "photos --backbone twins_svt_small --out DIR"),
    "visualize": (
        "feature maps of several models side by side",
        "photos --backbone twins_svt_small resnet50 --out DIR",
    ),
    "export": (
        "a backbone as ONNX or torch's exported program, for images of any size",
        "--backbone twins_svt_small --out twins.onnx",
    ),
    "convert": ("key names of a checkpoint, changed to another project's", "twins_svt_small.pth svt.pth --to mmseg"),
    "list": ("timm models that work as backbones, with their levels", "'*swin*' --strides 4 8 16 32"),
}

#: Commands that a launcher starts in several processes.
LAUNCHED = ("train", "test")


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of ``dense-adapters`` itself; each command has a parser of its own."""
    width = max(map(len, COMMANDS))
    purposes = "\n".join(f"  {name:{width}}  {purpose}" for name, (purpose, _) in COMMANDS.items())
    examples = "\n".join(f"  dense-adapters {name} {example}" for name, (_, example) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="dense-adapters",
        description="timm's models as backbones for detection and segmentation in OpenMMLab.",
        epilog=f"commands:\n{purposes}\n\nexamples:\n{examples}\n\n`dense-adapters COMMAND --help` has the arguments.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"dense-adapters {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of those below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="its arguments")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code.

    Raises:
        ValueError: a mistake in the arguments, with the remedy.
    """
    args = make_parser().parse_args(arguments)
    module = importlib.import_module(f"adapters.commands.{args.command.replace('-', '_')}")
    return module.main(args.arguments)


def run(*command: str) -> None:
    """End the process as ``dense-adapters COMMAND ...`` does: errors in one line, and the exit code.

    Args:
        command: the command that a script stands for; nothing where the command line names it.
    """
    arguments = [*command, *sys.argv[1:]]
    with one_line_errors():
        code = main(arguments)
    if arguments[0] in LAUNCHED:
        end_launched_process()
    sys.exit(code)
