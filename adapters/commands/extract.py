"""The command ``dense-adapters extract``, and the parts that it shares with ``visualize``."""

import argparse
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from adapters.extraction.building import RANDOM, build_extractor, read_config
from adapters.extraction.extractor import Extractor
from adapters.extraction.inputs import find_images
from adapters.extraction.options import NATIVE, OUTPUTS, ExtractionOptions
from adapters.extraction.run import ENGINES, Summary, run_extraction
from adapters.extraction.run_folder import recorded_threads
from adapters.necks.build import PYRAMIDS
from adapters.openmmlab.config_files import find_config

EPILOG = """examples:
  dense-adapters extract photos --backbone twins_svt_small --out work_dirs/features
  dense-adapters extract coco.json --backbone vit_small_patch16_224 --pyramid TapPyramid --out DIR
  dense-adapters extract 'a/*.jpg' --config adapters::NAME --checkpoint FILE --out DIR --visualize

A run that was stopped goes on when the same command is given again. Exits with 1 if an image failed."""

#: Failures that the summary shows; the manifest has all.
SHOWN = 10


def add_input_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name the images, how they are fed, and the folder of the results."""
    default = ExtractionOptions()
    add = parser.add_argument
    add("input", nargs="+", help="images, folders, 'globs', a .txt of paths, a COCO .json")
    add("--out", type=Path, required=True, help="folder of the results")
    add("--image-root", type=Path, metavar="DIR", help="folder from which a COCO json names its images")
    add("--size", nargs="+", metavar="N", help="N: shorter side; H W: exactly; native: the model's own resize and crop")
    add("--white", metavar="N", help="white in images of more than 8 bits: 4095 where data have 12 bits")
    add("--black", type=float, default=default.black, metavar="N", help="with --white: black (default: %(default)g)")
    add("--percentiles", metavar="LOW,HIGH", help="black and white by percentiles of each image: 1,99")
    add("--in-channels", type=int, metavar="N", help="bands of the images, such as 6 of a TIFF or .npy (default: 3)")
    add("--batch-size", type=int, default=default.batch_size, help="images of like size at most (default: %(default)s)")
    add(
        "--max-pixels",
        type=float,
        default=default.max_pixels,
        metavar="MP",
        help="megapixels fed (default: %(default)g)",
    )
    add(
        "--max-decoded",
        type=float,
        default=default.max_decoded,
        metavar="MP",
        help="megapixels read (default: %(default)g)",
    )
    add("--workers", type=int, default=2, help="processes that load; with Ray, that compute (default: %(default)s)")
    add("--threads", type=int, help="of the CPU (default: torch's, or those of the run in OUT)")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    add("--amp", action="store_true", help="autocast: fp16 on a GPU, bfloat16 on the CPU; maps are kept so")
    add("--seed", type=int, default=0, help="of random weights (default: %(default)s)")
    add("--engine", choices=ENGINES, default="local", help="ray: over the cluster of RAY_ADDRESS, or one started here")


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the command."""
    parser = argparse.ArgumentParser(
        prog="dense-adapters extract",
        description="Extract the feature maps of images: one safetensors file each, and a Parquet manifest.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_input_arguments(parser)
    add = parser.add_argument
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--backbone", metavar="NAME", help="a timm model")
    which.add_argument(
        "--config",
        metavar="FILE",
        help="an mmdet or mmseg config whose backbone is one of the adapters: a path, or adapters::NAME",
    )
    add("--checkpoint", metavar="FILE", help="path, URL, timm (default of --backbone: the hub's weights), or random")
    add(
        "--levels", type=int, nargs="+", metavar="I", help="stages, or blocks of a token model (default: the adapter's)"
    )
    add("--pyramid", choices=sorted(PYRAMIDS), help="levels at strides 4, 8, 16, 32 from a token model")
    add("--outputs", default="pyramid", help=f"comma-separated, of {', '.join(OUTPUTS)} (default: %(default)s)")
    add("--out-norm", action="store_true", help="apply the model's final norm to the maps")
    add("--visualize", action="store_true", help="draw a sheet per image and OUT/index.html")
    return parser


def options_of(args: argparse.Namespace, outputs: str, folder: Path) -> ExtractionOptions:
    """Make the options of an extraction from the command line.

    Args:
        args: values of :func:`add_input_arguments`.
        outputs: names of outputs, comma-separated.
        folder: folder of the run, which may have been started on a machine of other cores.

    Raises:
        ValueError: a value that is not allowed.
    """
    try:
        white = None if args.white is None else float(args.white)
    except ValueError as error:
        raise ValueError(f"--white {args.white} must be a number; percentiles are --percentiles 1,99.") from error
    threads = args.threads if args.threads is not None else recorded_threads(folder) or torch.get_num_threads()
    return ExtractionOptions(
        outputs=tuple(outputs.split(",")),
        size=_parse_size(args.size),
        white=white,
        black=args.black,
        percentiles=_parse_percentiles(args.percentiles),
        batch_size=args.batch_size,
        max_pixels=args.max_pixels,
        max_decoded=args.max_decoded,
        amp=args.amp,
        device=args.device,
        threads=threads,
    )


def _parse_size(words: Sequence[str] | None) -> tuple[int, ...] | str | None:
    """Read ``['224']``, ``['480', '640']`` or ``['native']``.

    Raises:
        ValueError: anything else.
    """
    if not words:
        return None
    if list(words) == [NATIVE]:
        return NATIVE
    if len(words) > 2 or not all(word.isdigit() for word in words):
        raise ValueError(f"--size {' '.join(words)} must be one side, a height and a width, or {NATIVE}.")
    return tuple(int(word) for word in words)


def _parse_percentiles(text: str | None) -> tuple[float, float] | None:
    """Read ``'1,99'``.

    Raises:
        ValueError: anything else.
    """
    if text is None:
        return None
    try:
        low, high = map(float, text.split(","))
    except ValueError as error:
        raise ValueError(f"--percentiles {text} must be two of 0 to 100, the lower first: 1,99.") from error
    return low, high


def _build_extractor(args: argparse.Namespace, options: ExtractionOptions) -> Extractor:
    """Build the model that the command line names.

    Raises:
        ValueError: it cannot be built, or the weights do not fit.
    """
    config: dict[str, Any] = {"model_name": args.backbone, "weights": "timm"}
    overrides: dict[str, Any] = {}
    if args.config:
        config, overrides = read_config(str(find_config(args.config)))
    if args.levels:
        config["out_indices"] = tuple(args.levels)
    if args.pyramid:
        config["pyramid"] = {"type": args.pyramid}
    if args.in_channels is not None:
        config["in_channels"] = args.in_channels
    if args.out_norm:
        config["out_norm"] = True
    return build_extractor(config, options, args.checkpoint, args.seed, **overrides)


def main(arguments: Sequence[str] | None = None) -> int:
    """Extract the features of images; return 0, 1 if an image failed, 130 if interrupted.

    Raises:
        ValueError: a mistake in the arguments, with the remedy.
    """
    args = make_parser().parse_args(arguments)
    options = options_of(args, args.outputs, args.out)
    if args.visualize and "pyramid" not in options.outputs:
        raise ValueError("--visualize draws the pyramid: add pyramid to --outputs.")
    paths = find_images(args.input, args.image_root, exclude=args.out)
    extractor = _build_extractor(args, options)
    with interruptible(args.out):
        summary = run_extraction(paths, extractor, args.out, args.workers, args.engine)
        report(summary, args.out)
        if args.visualize:
            from adapters.extraction.gallery import draw_gallery

            title = f"{extractor.name}{' with random weights' if args.checkpoint == RANDOM else ''}"
            print(f"gallery: {draw_gallery(args.out, {title: args.out})}")
    return int(bool(summary.failures))


@contextmanager
def interruptible(out: Path) -> Iterator[None]:
    """End with one line and exit code 130 on Ctrl-C, and on the SIGTERM with which a batch system ends a run.

    The batch that is being computed is finished first; a second signal ends the run at once, as it can at any moment.
    """

    def stop(*_: object) -> None:
        for number in before:
            signal.signal(number, signal.SIG_DFL)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except KeyboardInterrupt:
        print(f"stopped; the same command goes on from what is in {out}", file=sys.stderr)
        sys.exit(130)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def report(summary: Summary, out: Path) -> None:
    """Print how a run ended."""
    there = summary.done - summary.new
    print(f"{out}: {summary.done} of {summary.total} images" + (f", {there} of them there already" if there else ""))
    if summary.notes:
        path, note = summary.notes[0]
        print(
            f"{len(summary.notes)} of them nearly black (note in the manifest), such as {path}, {note}: --white 4095 "
            "suits 12-bit data, --percentiles 1,99 any; with another --out",
            file=sys.stderr,
        )
    if not summary.failures:
        return
    print(f"{len(summary.failures)} failed (status and reason of each are in the manifest):", file=sys.stderr)
    for path, reason in summary.failures[:SHOWN]:
        print(f"  {path}: {reason}", file=sys.stderr)
    if len(summary.failures) > SHOWN:
        print(f"  and {len(summary.failures) - SHOWN} more", file=sys.stderr)
