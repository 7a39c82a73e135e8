"""Train every family from random weights in one small recipe, beside the native classes of mmseg and mmdet.

Semantic FPN on the generated shapes, the same seeds and number of steps for all. Each run has a process of its own;
finished ones are kept, so that a tool that was stopped goes on with the next. Exits with 1 where a backbone ends below
its floor, or each of its seeds below each of its native counterpart.

    python tools/learning_check.py
    python tools/learning_check.py --stop-after 400          # in pieces
    python tools/learning_check.py --cases twins 'mmseg SVT' --seeds 0 --iterations 100 --out work_dirs/short
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from tqdm import tqdm

from adapters.describe.tables import to_markdown, to_table
from adapters.files import write_text
from lab.learning.cases import CASES, find_cases
from lab.learning.check import SEEDS, Budget, judge, prepare_data, result_name, rows, run_case, scores_of
from lab.results import Results


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what has no result yet, seed by seed, show the table and write it."""
    started = time.monotonic()
    args = parse_args(arguments)
    cases = find_cases(args.cases)
    budget = Budget(
        iterations=args.iterations or Budget.iterations,
        images=tuple(args.images) if args.images else Budget.images,
    )
    out = args.out.resolve()
    kept = Results(out / "results.json", {"budget": asdict(budget)})
    data_root = prepare_data(budget, out)
    wanted = [(case, seed) for seed in args.seeds for case in cases if result_name(case, seed) not in kept.by_name]
    bar = tqdm(wanted, dynamic_ncols=True, disable=None)
    for case, seed in bar:
        if time.monotonic() - started >= args.stop_after:
            break
        bar.set_description(result_name(case, seed))
        kept.add(result_name(case, seed), run_case(case, budget, seed, out, data_root))
    table = rows(CASES, kept.by_name)
    console = Console(width=None if sys.stdout.isatty() else 200)
    if table:
        write_text(out / "results.md", to_markdown(table) + "\n")
        console.print(to_table(table))
    console.print(f"{budget.iterations} steps of {budget.batch_size} images; written: {kept.path}, {out}/results.md")
    return int(any(judge(case, kept.by_name) for case in cases if scores_of(case.name, kept.by_name)))


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--cases", nargs="+", metavar="NAME", help=f"of {', '.join(repr(case.name) for case in CASES)}; default: all")
    add("--iterations", type=int, help="steps of each run; fewer than the default mean nothing for the floors")
    add("--seeds", nargs="+", type=int, default=list(range(SEEDS)), help="of weights and data (default: 0 1 2)")
    add("--images", nargs=2, type=int, metavar=("TRAIN", "VAL"), help="images to draw")
    add("--stop-after", type=float, default=float("inf"), metavar="SECONDS", help="begin no further run after that")
    add("--out", type=Path, default=Path("work_dirs/learning_check"), help="folder (default: %(default)s)")
    return parser.parse_args(arguments)
