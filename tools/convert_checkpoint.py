#!/usr/bin/env python
"""Convert a backbone's checkpoint between timm's, the original Twins code's, mmseg's, mmpretrain's and our key names.

    python tools/convert_checkpoint.py twins_svt_small.pth svt_mmseg.pth --to mmseg

The source may be anything that ``weights=...`` takes, a whole detector or segmentor among it; its format is found out.
"""

import argparse
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from adapters.commands.errors import one_line_errors
from adapters.weights.convert import Conversion, convert
from adapters.weights.formats import FORMATS, LEFT_OUT
from adapters.weights.report import table
from adapters.weights.source import contents


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="SRC", help="a path, a URL or hf-hub:owner/name")
    parser.add_argument("target", metavar="DST", type=Path, help="the file to write, .pth or .safetensors")
    parser.add_argument("--to", required=True, choices=list(FORMATS), help="the key names to give it")
    parser.add_argument(
        "--prefix", help="where the backbone lies, if the source holds several, such as 'teacher.backbone.'"
    )
    return parser.parse_args()


def save(conversion: Conversion, path: Path) -> None:
    """Write the tensors, whole or not at all; a ``.pth`` also keeps what the format has no place for."""
    state: dict[str, Any] = {key: tensor.detach().clone().contiguous() for key, tensor in conversion.state.items()}
    partial = path.with_name(f"{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        if path.suffix == ".safetensors":
            save_file(state, str(partial))
        elif conversion.left_out:
            kept = {key: tensor.detach().clone() for key, tensor in conversion.left_out.items()}
            torch.save({"state_dict": state, LEFT_OUT: kept}, partial)
        else:
            torch.save(state, partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def main() -> None:
    """Read, convert, write, report."""
    arguments = parse_arguments()
    conversion = convert(contents(arguments.source), arguments.to, arguments.prefix, arguments.source)
    save(conversion, arguments.target)
    print(table([("from", "to", "shape"), *conversion.rows], limit=len(conversion.rows) + 1))
    below = f" below {conversion.prefix!r}" if conversion.prefix else ""
    print(f"{arguments.source}: {conversion.source.title} names{below}")
    print(f"{arguments.target}: {len(conversion.state)} tensors under {FORMATS[arguments.to].title} names")
    if conversion.left_out:
        fate = "dropped" if arguments.target.suffix == ".safetensors" else f"kept aside as {LEFT_OUT!r}"
        print(f"no place there for {len(conversion.left_out)}, {fate}: {', '.join(conversion.left_out)}")
    for note in conversion.notes:
        print(f"note: {note}")


if __name__ == "__main__":
    with one_line_errors():
        main()
