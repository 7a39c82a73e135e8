"""The command that converts a backbone's checkpoint between the key names of different projects."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from adapters.factory import TimmAdapter
from adapters.files import atomic_write
from adapters.tuning.folder import find
from adapters.weights.convert import Conversion, convert, from_timm
from adapters.weights.download import fetch_contents
from adapters.weights.factors import settle_factors
from adapters.weights.formats import FORMATS, LEFT_OUT
from adapters.weights.load import load_weights
from adapters.weights.report import table

DESCRIPTION = """Convert a backbone's checkpoint between timm's, the original Twins code's, mmseg's, mmpretrain's and
our key names. The source may be anything that weights=... takes, a whole detector or segmentor among it; its format is
found out."""

EPILOG = """examples:
  %(prog)s twins_svt_small.pth svt_mmseg.pth --to mmseg
  %(prog)s detector.pth backbone.safetensors --to timm --prefix teacher.backbone.
  %(prog)s tuned.pth merged.pth --merge"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Read, convert, write, report.

    Raises:
        ValueError: the source cannot be read, or holds nothing that the target's names can express.
    """
    args = make_parser().parse_args(arguments)
    if args.to is None:
        return merge_whole(args.source, args.target, merge=args.merge)
    if args.model is None and find(args.source):
        raise ValueError(f"{args.source} is a folder of peft's: give --model NAME, into which its factors are merged.")
    if args.model is None:
        conversion = convert(fetch_contents(args.source), args.to, args.prefix, args.source, merge=args.merge)
    else:
        conversion = convert_through(args.model, args.source, args.to, args.prefix)
    save(conversion, args.target)
    print(table([("from", "to", "shape"), *conversion.rows], limit=len(conversion.rows) + 1))
    print(f"{args.source}: {conversion.found_as}")
    print(f"{args.target}: {len(conversion.state)} tensors under {FORMATS[args.to].title} names")
    if conversion.left_out:
        fate = "dropped" if args.target.suffix == ".safetensors" else f"kept aside as {LEFT_OUT!r}"
        print(f"no place there for {len(conversion.left_out)}, {fate}: {', '.join(conversion.left_out)}")
    for note in conversion.notes:
        print(f"note: {note}")
    if args.model is None:
        print("note: no tensor was compared with a model's; --model NAME does that")
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="dense-adapters convert",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="SRC", help="a path, a URL or hf-hub:owner/name")
    parser.add_argument("target", metavar="DST", type=Path, help="the file to write, .pth or .safetensors")
    parser.add_argument(
        "--to",
        choices=list(FORMATS),
        help="the key names to give it; with --merge, none keeps the whole model as it is",
    )
    parser.add_argument(
        "--prefix", help="all that comes before the backbone's names, such as 'teacher.backbone'; default: searched for"
    )
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="the timm model that it is: loads the source into it first, which reads other projects' names and other "
        "sizes, leaves out what is not the backbone's, and compares each tensor",
    )
    parser.add_argument(
        "--merge",
        action="store_true",
        help="add low-rank factors to the weights that they adapt; a folder of peft's needs --model, which merges, too",
    )
    return parser


def merge_whole(source: str, target: Path, *, merge: bool) -> int:
    """Write a whole detector or segmentor with its low-rank factors merged, all its names as they are without them.

    Raises:
        ValueError: nothing says what to write, or the source holds no factors.
    """
    if not merge:
        raise ValueError("give --to, the key names of the backbone; or --merge, for a whole model without its factors.")
    contents = fetch_contents(source)
    held = contents.get("state_dict", contents)
    state, count = settle_factors({key: value for key, value in held.items() if torch.is_tensor(value)}, merged=True)
    if not count:
        raise ValueError(
            f"{source} holds no low-rank factors beside the weights that they adapt: there is none to merge."
        )
    with atomic_write(target) as partial:
        if target.suffix == ".safetensors":
            save_file({key: tensor.contiguous().clone() for key, tensor in state.items()}, str(partial))
        else:
            torch.save({"state_dict": state}, partial)
    print(f"{target}: {len(state)} tensors, the low-rank factors of {count} layers merged")
    return 0


def convert_through(model_name: str, source: str, target_name: str, prefix: str | None) -> Conversion:
    """Load a checkpoint into a timm model, strictly, and give the model's tensors the names of a project.

    The classifier comes along if the checkpoint's fits the model.

    Raises:
        ValueError: the checkpoint does not fit the model, or the target's names are not for such a model.
    """
    weights = {"type": "Pretrained", "checkpoint": source, **({} if prefix is None else {"prefix": prefix})}
    adapter = TimmAdapter(model_name, keep_head=True, init_cfg=weights)
    try:
        report = load_weights(adapter, adapter.weights)
    except ValueError:
        adapter.trunk.reset_classifier(0)
        report = load_weights(adapter, adapter.weights)
    return from_timm(adapter.trunk.state_dict(), target_name, str(report))


def save(conversion: Conversion, path: Path) -> None:
    """Write the tensors; a ``.pth`` also keeps those that the format has no place for."""
    state: dict[str, Any] = {key: tensor.detach().clone().contiguous() for key, tensor in conversion.state.items()}
    with atomic_write(path) as partial:
        if path.suffix == ".safetensors":
            save_file(state, str(partial))
        elif conversion.left_out:
            kept = {key: tensor.detach().clone() for key, tensor in conversion.left_out.items()}
            torch.save({"state_dict": state, LEFT_OUT: kept}, partial)
        else:
            torch.save(state, partial)
