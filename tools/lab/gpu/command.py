"""Check the adapters on a GPU, and write a table with the card's name.

Numbers, precision, gradients and host synchronisation of the tests' zoo; torch.compile at three sizes; time and memory
beside timm and mmseg; training steps of a detector and a segmentor; the operators that serve in place of mmcv's. What
needs mmengine, mmdet or mmcv is told where they are not installed. Exits with 1 where something is wrong.

    python tools/check_gpu.py
    python tools/check_gpu.py --device cpu --only numbers operators    # the same code, slowly, without a GPU
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from adapters.describe.tables import markdown_table
from adapters.files import write_text
from lab.gpu.numbers import COMPILED, check_compiled, check_numbers
from lab.gpu.rows import Row
from lab.gpu.speed import check_speed

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "gpu.md"
CHECKS = ("numbers", "torch.compile", "speed", "training", "operators")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the checks until they or the time end, print the table, and write it where it is of a GPU."""
    args = parse_args(arguments)
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("torch sees no CUDA GPU here; --device cpu runs the same checks at small sizes.")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    started = time.monotonic()
    rows: list[Row] = []
    left: list[str] = []
    for name in args.only or CHECKS:
        for row in tqdm(make_checks(device, args.quick)[name](), desc=name, disable=None):
            rows.append(row)
            if time.monotonic() - started > args.stop_after:
                left.append(name)
                break
    page = render(rows, left, device, time.monotonic() - started)
    print(page)
    if device.type == "cuda" and args.page:
        write_text(args.page, page)
        print(f"written: {args.page}")
    return int(any(row.problem for row in rows))


def make_checks(device: torch.device, quick: bool) -> dict[str, Callable[[], Iterator[Row]]]:
    """Return the checks by name; small ones on the CPU, and a few of each where they are to be quick."""
    from zoo import MORE, ZOO

    small = device.type == "cpu"
    specs = [*ZOO, *MORE][: 2 if quick else None]
    compiled = [spec for spec in ZOO if spec.name in COMPILED][: 1 if quick else None]

    def with_openmmlab(name: str, *values: object) -> Iterator[Row]:
        try:
            from lab.gpu import openmmlab
        except ModuleNotFoundError as error:
            yield Row(name, "all", f"not run: {error.name} is not installed")
            return
        yield from getattr(openmmlab, name)(device, *values)

    return {
        "numbers": lambda: check_numbers(specs, device),
        "torch.compile": lambda: check_compiled(compiled, device),
        "speed": lambda: check_speed(device, (64, 64) if small else None),
        "training": lambda: with_openmmlab("check_training", 64 if small else 512),
        "operators": lambda: with_openmmlab("check_operators", *([5] if quick else [])),
    }


def render(rows: Sequence[Row], left: Sequence[str], device: torch.device, seconds: float) -> str:
    """Write the page: the machine, what is wrong, and a line for each case."""
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
    wrong = [row for row in rows if row.problem]
    lines = [
        f"# Checked on {card}",
        "",
        f"`make gpu`, torch {torch.__version__}, fp32 without TF32: {len(rows) - len(wrong)} of {len(rows)} cases are "
        f"right, in {seconds:.0f} s.",
        *(["", f"The time ended in: {', '.join(left)}."] if left else []),
        "",
        markdown_table(
            ("check", "case", "found", "wrong"), [[row.check, row.case, row.found, row.problem] for row in rows], ()
        ),
    ]
    return "\n".join(lines) + "\n"


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--device", default="cuda", help="cuda (default), cuda:N, or cpu")
    add("--only", nargs="+", choices=CHECKS, metavar="CHECK", help=f"some of {', '.join(CHECKS)}")
    add("--quick", action="store_true", help="a few cases of each check")
    add("--stop-after", type=float, default=480, metavar="SECONDS", help="begin no case after that (default: 480)")
    add("--page", type=Path, default=PAGE, help="where a GPU's table is written (default: docs/gpu.md)")
    return parser.parse_args(arguments)
