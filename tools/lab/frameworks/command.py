"""Take a training step of one model of each of timm's families in the heads of torchvision, transformers and smp.

Each family runs in processes of its own; results are kept in a JSON file beside the page, and a second run goes on
from there.
About 40 minutes of one core for all.

    python tools/check_frameworks.py                        # everything that is missing, then the page
    python tools/check_frameworks.py --stop-after 400       # in pieces
    python tools/check_frameworks.py --every 3              # a representative third
    python tools/check_frameworks.py --families hiera nest  # these alone, anew
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from adapters.files import read_json, write_text
from lab.coverage.report import judge
from lab.coverage.representatives import Representative
from lab.coverage.run import run
from lab.frameworks.measure import SIZES, measure_adapters, measure_wrappers
from lab.frameworks.report import render

ROOT = Path(__file__).resolve().parents[3]
#: The families, their smallest models, and which of them serve as backbones.
COVERAGE = ROOT / "docs" / "coverage.json"
SUBJECTS = {
    "adapters": lambda one: measure_adapters(one, SIZES),
    "wrappers": lambda one: measure_wrappers(one, SIZES),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, and write the page."""
    args = parse_args(arguments)
    torch.set_num_threads(args.threads)
    models = [
        Representative(family, row["model"], row["parameters"], tuple(row["native"]))
        for family, row in read_json(COVERAGE)["families"].items()
        if judge(row["adapters"].get("build"))
    ]
    if unknown := sorted(set(args.families) - {one.family for one in models}):
        raise ValueError(f"timm has no family {', '.join(unknown)}; it has {', '.join(one.family for one in models)}.")
    chosen = [one for one in models if one.family in args.families] if args.families else models[:: args.every]
    results = args.page.with_suffix(".json")
    table = run(chosen, results, SUBJECTS, args.time_limit, args.families, args.jobs, args.stop_after)
    write_text(args.page, render(table, [one.family for one in models]))
    print(f"written: {args.page}")
    return 0


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", default=[], metavar="NAME", help="files of timm.models, such as hiera")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="one family in N (default: %(default)s)")
    parser.add_argument("--stop-after", type=float, default=float("inf"), help="seconds; then no family is begun")
    parser.add_argument("--time-limit", type=float, default=300, help="seconds for one cell")
    parser.add_argument("--jobs", type=int, default=1, help="families measured at once (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of each (default: %(default)s)")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "frameworks_measured.md")
    return parser.parse_args(arguments)
