"""The command ``dense-adapters list``."""

import argparse
from collections.abc import Sequence

from adapters.levels import format_levels
from adapters.listing import default_levels, list_models

EPILOG = """examples:
  dense-adapters list 'twins_*'
  dense-adapters list '*vit*' '*swin*' --strides 4 8 16 32"""


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the command."""
    parser = argparse.ArgumentParser(
        prog="dense-adapters list",
        description="List the timm models that work as backbones, with the levels that they give by default.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("patterns", nargs="*", default=["*"], metavar="PATTERN", help="of names; default: all")
    parser.add_argument("--strides", nargs="+", type=int, metavar="N", help="only models of these strides")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each model; return 1 where there is none of the strides that were asked for.

    Raises:
        ValueError: timm has no model of the patterns.
    """
    args = make_parser().parse_args(arguments)
    models = {name: default_levels(name) for name in list_models(args.patterns)}
    if args.strides:
        models = {name: levels for name, levels in models.items() if [lv.stride for lv in levels] == args.strides}
    width = max(map(len, models), default=0)
    for name, levels in models.items():
        print(f"{name:{width}}  {format_levels(levels)}")
    return int(not models)
