"""Draw the dataset of shapes: detection, instance and semantic segmentation without a download.

    python tools/make_shapes.py --out data/shapes --train 600 --val 80 --seed 0 --size-range 128 192

The same options give the same bytes; a complete dataset of the same options is not drawn again.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from lab.shapes import CLASSES, ShapesSettings, make_dataset


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the dataset, unless it is there already."""
    args = parse_args(arguments)
    object_sides = tuple(args.object_sides) if args.object_sides else None
    settings = ShapesSettings(args.train, args.val, args.seed, tuple(args.size_range), object_sides)
    drawn = make_dataset(args.out, settings, args.overwrite)
    state = "drawn" if drawn else "there already"
    print(f"{args.out}: {state}, {args.train} images to train on and {args.val} to validate on")
    return 0


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    defaults = ShapesSettings()
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"classes: {', '.join(CLASSES)}",
    )
    parser.add_argument("--out", type=Path, default=Path("data/shapes"), help="folder (default: %(default)s)")
    parser.add_argument("--train", type=int, default=defaults.train, help="images (default: %(default)s)")
    parser.add_argument("--val", type=int, default=defaults.val, help="images (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=defaults.seed, help="default: %(default)s")
    parser.add_argument(
        "--size-range",
        type=int,
        nargs=2,
        metavar=("LEAST", "GREATEST"),
        default=defaults.size_range,
        help="sides of the images in pixels (default: %(default)s)",
    )
    parser.add_argument(
        "--object-sides",
        type=int,
        nargs=2,
        metavar=("LEAST", "GREATEST"),
        help="sides of the objects in pixels, for small ones such as 4 12 (default: large ones)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a dataset of other options")
    return parser.parse_args(arguments)
