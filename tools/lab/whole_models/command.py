"""Measure whole detectors and segmentors on our backbones beside those of mmseg and mmdet: time, memory, share.

RetinaNet, Mask R-CNN and UPerNet with their published heads, one image a step (UPerNet trains on two), on the CPU. Each
side has a process of its own, and they take turns; peak memory is taken in a fresh process. A training step has its
loss, its backward pass and AdamW. Weights are random and a prediction finds nothing, so that what follows the heads
takes the least time that it can. Finished cases are kept.

    python tools/benchmark_models.py --list
    python tools/benchmark_models.py --cases 'retinanet 512x512' --repeats 3
    python tools/benchmark_models.py --stop-after 500            # in pieces
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from tqdm import tqdm

from adapters.describe.tables import to_table
from adapters.files import write_text
from lab.benchmark.report import machine
from lab.benchmark.results import Settings
from lab.results import Results
from lab.whole_models.cases import OURS, all_cases, find_cases
from lab.whole_models.report import rows, to_page
from lab.whole_models.run import run_case


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the cases that have no result yet, show the table and write it; return 1 where our side failed."""
    started = time.monotonic()
    args = parse_args(arguments)
    if args.list:
        print("\n".join(case.name for case in all_cases()))
        return 0
    cases = find_cases(args.cases)
    settings = Settings(threads=args.threads, repeats=args.repeats, budget=args.budget)
    kept = Results(args.out / "results.json", {"machine": machine("cpu"), "settings": asdict(settings)})
    bar = tqdm([case for case in cases if case.name not in kept.by_name], dynamic_ncols=True, disable=None)
    for case in bar:
        if time.monotonic() - started >= args.stop_after:
            break
        kept.add(
            case.name, run_case(case, settings, lambda step, name=case.name: bar.set_description(f"{name}: {step}"))
        )
    measured = [(case, kept.by_name[case.name]) for case in all_cases() if case.name in kept.by_name]
    console = Console(width=None if sys.stdout.isatty() else 200)
    if measured:
        console.print(to_table(rows(measured)))
        write_text(args.out / "results.md", to_page(measured))
    missing = sum(case.name not in kept.by_name for case in cases)
    console.print(f"Written: {kept.path}, {args.out}/results.md" + (f"; {missing} cases remain" if missing else ""))
    return int(any(result[OURS]["error"] for _, result in measured))


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    default = Settings()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--cases", nargs="+", default=[], metavar="WORDS", help="cases whose names hold all these words; default: all")
    add("--list", action="store_true", help="list the cases")
    add("--threads", type=int, default=default.threads, help="of each process (default: %(default)s)")
    add("--repeats", type=int, default=5, help="timed steps of each side (default: %(default)s)")
    add("--budget", type=float, default=30.0, help="seconds of one side after which none is timed once more")
    add("--stop-after", type=float, default=float("inf"), metavar="SECONDS", help="begin no further case after that")
    add("--out", type=Path, default=Path("work_dirs/benchmark_models"), help="folder (default: %(default)s)")
    return parser.parse_args(arguments)
