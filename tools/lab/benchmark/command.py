"""Measure adapters beside their peers: time, peak memory and numbers of each case, in one run.

Each side runs in processes of its own that take turns (A B A B ...), so whatever else the machine does hits both alike;
peak memory is taken in a fresh process, beyond its imports, weights and image. Exits with 1 where the numbers of the
two sides differ by more than the tolerance, or our side fails; a missed target is only shown.

    python tools/benchmark.py --list
    python tools/benchmark.py --cases convit-512 twins_svt_base@640x640
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from tqdm import tqdm

from adapters.files import write_text
from lab.benchmark.cases import CASES, MODES, find_cases
from lab.benchmark.report import case_list, machine, summary, to_markdown, to_table
from lab.benchmark.results import DTYPES, Settings, finished
from lab.benchmark.run import run_case
from lab.results import Results


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the cases, show the table and write it."""
    args = parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 200)
    if args.list:
        console.print(case_list(CASES))
        return 0
    cases = find_cases(args.cases)
    if args.mode:
        cases = [case.in_mode(args.mode) for case in cases]
    settings = Settings(args.threads, args.dtype, args.device, args.repeats, args.budget, args.time_limit)
    conditions = {"machine": machine(settings.device), "settings": asdict(settings)}
    kept = Results(args.out / "results.json", conditions, args.resume)
    results = []
    bar = tqdm(cases, dynamic_ncols=True, disable=None)
    for case in bar:
        result = finished(kept, case)
        if result is None:
            measured = run_case(case, settings, lambda step, name=case.name: bar.set_description(f"{name}: {step}"))
            result = kept.add(case.name, measured.to_json())
            tqdm.write(summary(result))
        results.append(result)
    title = f"{settings.dtype}, {settings.threads} threads, {conditions['machine']['device']}"
    console.print(to_table(results, title))
    page = args.out / "results.md"
    write_text(page, to_markdown(results))
    console.print(f"Written: {kept.path}, {page}")
    return int(any(result["within_tolerance"] is False or result["ours"]["error"] for result in results))


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    default = Settings()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--cases", nargs="+", default=["all"], metavar="NAME", help="built-in cases, MODEL@HxW, or all (default)")
    add("--list", action="store_true", help="list the built-in cases")
    add("--threads", type=int, default=default.threads, help="of each process (default: %(default)s)")
    add("--dtype", choices=DTYPES, default=default.dtype, help="bf16: autocast; compared with fp32")
    add("--mode", choices=MODES, help="forward (no gradients) or train; default: each case's own")
    add("--repeats", type=int, default=default.repeats, help="timed runs of each side (default: %(default)s)")
    add("--budget", type=float, default=default.budget, help="seconds after which a side is not timed once more")
    add("--time-limit", type=float, default=default.time_limit, help="seconds that one run may take")
    add("--device", default=default.device, help="cpu (default) or cuda")
    add("--resume", action="store_true", help="keep the finished cases of an earlier run into the same --out")
    add("--out", type=Path, default=Path("work_dirs/benchmark"), help="folder of the results (default: %(default)s)")
    return parser.parse_args(arguments)
