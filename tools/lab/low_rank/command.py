"""Measure low-rank tuning, and write what was measured into docs/low_rank.md.

    python tools/measure_low_rank.py families     # one model of each of timm's: layers, shares, training, merging
    python tools/measure_low_rank.py memory       # peak memory of training steps of a ViT-B at 512 x 512
    python tools/measure_low_rank.py transfer     # pretrained on half of the classes, tuned on the other half
    python tools/measure_low_rank.py page         # writes the page anew

Results are kept in docs/low_rank.json, and a second run goes on with what is missing.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import timm
import torch

from adapters.files import read_json, write_json, write_text
from lab.child import collect
from lab.low_rank import families, memory, transfer
from lab.low_rank.page import HEADING, render

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "low_rank.md"
COVERAGE = ROOT / "docs" / "coverage.json"

Table = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, print it, and write the page."""
    args = parse_args(arguments)
    torch.set_num_threads(args.threads)
    table: Table = read_json(args.results, {})
    table.update(timm=timm.__version__, torch=torch.__version__.split("+")[0])
    started = time.monotonic()

    def save() -> bool:
        """Keep what there is; say whether there is time for more."""
        write_json(args.results, table)
        return time.monotonic() - started < args.stop_after

    MEASUREMENTS[args.what](table, args, save)
    save()
    if args.results == PAGE.with_suffix(".json"):
        write_text(PAGE, PAGE.read_text(encoding="utf-8").split(HEADING)[0].rstrip() + "\n\n" + render(table))
        print(f"written: {PAGE}")
    return 0


def measure_families(table: Table, args: argparse.Namespace, save: Callable[[], bool]) -> None:
    """Measure the models of all families that have no row yet, or of those that are named."""
    models = {name: row["model"] for name, row in read_json(COVERAGE)["families"].items() if served(row)}
    rows = table.setdefault("families", {})
    missing = args.families or [name for name in models if name not in rows]
    if unknown := sorted(set(missing) - set(models)):
        raise ValueError(f"there is no family {', '.join(unknown)}; there are {', '.join(models)}.")

    def measure(name: str) -> None:
        if save():
            rows[name] = {"model": models[name], **collect(families.measure, args.time_limit, models[name])}
            print(name, rows[name], flush=True)
            save()

    with ThreadPoolExecutor(args.jobs) as executor:
        list(executor.map(measure, missing))
    table["families"] = {name: rows[name] for name in models if name in rows}


def served(row: Mapping[str, Any]) -> bool:
    """Return whether the adapters serve a family."""
    return row["adapters"].get("build") == "ok"


def measure_memory(table: Table, args: argparse.Namespace, save: Callable[[], bool]) -> None:
    """Measure all sides, one after the other."""
    sides = table["memory"] = {}
    for name, peft in memory.SIDES.items():
        sides[name] = memory.measure_side(peft, args.threads)
        share = sides[name] / sides["full fine-tuning"]
        print(f"{name:24} {sides[name] / 2**20:8.0f} MiB {share:6.2f}", flush=True)
        save()


def measure_transfer(table: Table, args: argparse.Namespace, save: Callable[[], bool]) -> None:
    """Train what has no result yet: the pretraining of each seed, then a tuning of each by each method."""
    budget = transfer.Budget(*([args.steps, args.steps] if args.steps else []))
    data = transfer.prepare_data(budget, args.out / "shapes")
    results = table.setdefault("transfer", {})
    weights = [transfer.pretrained(args.out, seed, budget.pretraining) for seed in range(args.seeds)]
    runs = {
        f"pretraining {seed}": transfer.make_config("first", budget, data, seed, budget.pretraining)
        for seed in range(args.seeds)
    }
    for method in transfer.METHODS:
        for seed in range(args.seeds):
            runs[f"{method} {seed}"] = transfer.tuning_config(method, budget, data, seed, weights[seed])
    for name, cfg in runs.items():
        if name not in results and save():
            results[name] = transfer.run(cfg, args.out / name)
            print(name, results[name], flush=True)
    for method in transfer.METHODS:
        if all(f"{one} {seed}" in results for one in (method, "full") for seed in range(args.seeds)):
            shares = transfer.ratios(results, method, range(args.seeds))
            print(f"{method}: {', '.join(f'{share:.3f}' for share in shares)}, mean {statistics.mean(shares):.3f}")


MEASUREMENTS: Mapping[str, Callable[..., None]] = {
    "families": measure_families,
    "memory": measure_memory,
    "transfer": measure_transfer,
    "page": lambda *_: None,
}


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("what", choices=MEASUREMENTS, help="what to measure")
    add("--families", nargs="+", default=[], metavar="NAME", help="these alone, anew: files of timm.models")
    add("--seeds", type=int, default=3, help="of the transfer (default: %(default)s)")
    add("--steps", type=int, help="of each training of the transfer; fewer than the default mean nothing")
    add("--jobs", type=int, default=1, help="families that are measured at once (default: %(default)s)")
    add("--threads", type=int, default=2, help="of each process (default: %(default)s)")
    add("--time-limit", type=float, default=200, help="seconds for one cell of a family (default: %(default)s)")
    add("--stop-after", type=float, default=1e9, metavar="SECONDS", help="start nothing more after that")
    add("--out", type=Path, default=ROOT / "work_dirs" / "low_rank", help="folder of the trainings")
    add("--results", type=Path, default=PAGE.with_suffix(".json"), help="default: that of the page")
    return parser.parse_args(arguments)
