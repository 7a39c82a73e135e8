"""Export one model of each of timm's families as ONNX, with any size and with one, and run each at six unseen sizes.

Each family runs in processes of its own; results are kept in a JSON file beside the page, and a second run goes on
from there.
About an hour of one core for the adapters, and as much for the peers.

    python tools/measure_exports.py                         # everything that is missing, then the page
    python tools/measure_exports.py --stop-after 400        # in pieces
    python tools/measure_exports.py --subjects adapters     # without timm's and transformers' own wrappers
    python tools/measure_exports.py --families hiera nest   # these alone, anew
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from adapters.files import read_json, write_text
from lab.coverage.report import render as render_coverage
from lab.coverage.representatives import Representative
from lab.coverage.run import Subjects, run
from lab.exports.measure import measure_adapter, measure_timm, measure_transformers
from lab.exports.report import render

ROOT = Path(__file__).resolve().parents[3]
#: The families and their smallest models.
COVERAGE = ROOT / "docs" / "coverage.json"
PAGE = ROOT / "docs" / "export_measured.md"
SUBJECTS: Subjects = {"adapters": measure_adapter, "timm": measure_timm, "transformers": measure_transformers}

HEAD = """# What of timm exports

One model for each family of timm {timm} (a file of `timm.models`), the one with the fewest parameters, its parameters
randomised, written by [`tools/measure_exports.py`](../tools/measure_exports.py) with torch {torch} on a CPU. A file
counts when it was traced at 203 x 331, written, opened, run at six other sizes (for *one height and width*, on six
other images) with batches of one and three, and equalled the model to 1e-4 of each map's largest value. The peers go
through the same exporter.

"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, and write the page."""
    args = parse_args(arguments)
    torch.set_num_threads(args.threads)
    models = [
        Representative(family, row["model"], row["parameters"], tuple(row["native"]))
        for family, row in read_json(COVERAGE)["families"].items()
    ]
    if unknown := sorted(set(args.families) - {one.family for one in models}):
        raise ValueError(f"timm has no family {', '.join(unknown)}; it has {', '.join(one.family for one in models)}.")
    chosen = [one for one in models if not args.families or one.family in args.families]
    subjects = {name: SUBJECTS[name] for name in args.subjects}
    results = args.page.with_suffix(".json")
    table = run(chosen, results, subjects, args.time_limit, args.families, args.jobs, args.stop_after)
    for one in chosen:
        for subject in subjects:
            cells = table["families"][one.family].get(subject, {})
            wrong = {column: cell for column, cell in cells.items() if column != "seconds" and cell != "ok"}
            print(f"{one.family:28} {subject:12} {one.model_name:36} {wrong or 'ok' if cells else 'not yet'}")
    write_text(args.page, HEAD.format(**table) + render(table["families"]))
    write_text(COVERAGE.with_suffix(".md"), render_coverage(read_json(COVERAGE), table))
    print(f"written: {args.page}, and the columns of {COVERAGE.with_suffix('.md')}")
    return 0


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", default=[], metavar="NAME", help="files of timm.models, such as hiera")
    parser.add_argument(
        "--subjects", nargs="+", choices=list(SUBJECTS), default=list(SUBJECTS), help="what is exported (default: all)"
    )
    parser.add_argument("--stop-after", type=float, default=float("inf"), help="seconds; then no family is begun")
    parser.add_argument("--time-limit", type=float, default=400, help="seconds for one file (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="families measured at once (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of each (default: %(default)s)")
    parser.add_argument("--page", type=Path, default=PAGE)
    return parser.parse_args(arguments)
