"""Train every family from random weights in one small recipe, beside the native classes of mmseg and mmdet.

Semantic FPN on the generated shapes, the same seed and number of steps for all. Each case has a process of its own;
finished ones are kept, so that a run that was stopped goes on with the next. Exits with 1 where a backbone ends below
its floor, or below its native counterpart by more than the margin.

    python tools/learning_check.py
    python tools/learning_check.py --cases twins 'mmseg SVT' --iterations 100 --out work_dirs/short
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from tqdm import tqdm

from adapters.describe.tables import to_markdown, to_table
from adapters.files import write_text
from lab.learning.cases import CASES, find_cases
from lab.learning.check import Budget, judge, prepare_data, rows, run_case
from lab.results import Results


def main(arguments: Sequence[str] | None = None) -> int:
    """Train the cases that have no result yet, show the table and write it."""
    args = parse_args(arguments)
    cases = find_cases(args.cases)
    budget = Budget(
        iterations=args.iterations or Budget.iterations,
        seed=args.seed,
        images=tuple(args.images) if args.images else Budget.images,
    )
    out = args.out.resolve()
    kept = Results(out / "results.json", {"budget": asdict(budget)})
    data_root = prepare_data(budget, out)
    bar = tqdm([case for case in cases if case.name not in kept.by_name], dynamic_ncols=True, disable=None)
    for case in bar:
        bar.set_description(case.name)
        kept.add(case.name, run_case(case, budget, out, data_root))
    table = rows(CASES, kept.by_name)
    write_text(out / "results.md", to_markdown(table) + "\n")
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(to_table(table))
    console.print(f"{budget.iterations} steps of {budget.batch_size} images; written: {kept.path}, {out}/results.md")
    return int(any(judge(case, kept.by_name) for case in cases))


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--cases", nargs="+", metavar="NAME", help=f"of {', '.join(repr(case.name) for case in CASES)}; default: all")
    add("--iterations", type=int, help="steps of each case; fewer than the default mean nothing for the floors")
    add("--seed", type=int, default=0, help="of weights and data (default: %(default)s)")
    add("--images", nargs=2, type=int, metavar=("TRAIN", "VAL"), help="images to draw")
    add("--out", type=Path, default=Path("work_dirs/learning_check"), help="folder (default: %(default)s)")
    return parser.parse_args(arguments)
