"""Measure which of timm's families work as backbones, beside timm's and mmseg's wrappers, and write docs/coverage.md.

The smallest model of each family is built, run at five sizes, trained, frozen, checkpointed, compiled, and put into a
detector and a segmentor, each in a process of its own. About an hour on two cores; results are kept in
work_dirs/coverage, and a second run goes on from there (all of it anew: remove that folder).

    python tools/measure_coverage.py                       # everything that is missing, then the page
    python tools/measure_coverage.py --families hiera nest # these alone, anew; the page is left as it is
    python tools/measure_coverage.py --records             # the records of every model, for adapters.list_models
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from adapters.files import read_json, write_json, write_text
from adapters.registry import require_mmengine
from lab.coverage.records import survey
from lab.coverage.report import NOTES, judge, render
from lab.coverage.representatives import representatives
from lab.coverage.run import SUBJECTS, run

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "coverage.md"
#: What tools/measure_exports.py has measured.
EXPORTS = ROOT / "docs" / "export_measured.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, and write the page."""
    args = parse_args(arguments)
    torch.set_num_threads(args.threads)
    if args.records:
        survey(args.time_limit, args.jobs)
        return 0
    require_mmengine("tools/measure_coverage.py")
    models = representatives(args.out / "representatives.json")
    unknown = sorted(set(args.families) - {one.family for one in models})
    if unknown:
        raise ValueError(f"timm has no family {', '.join(unknown)}; it has {', '.join(one.family for one in models)}.")
    chosen = [one for one in models if not args.families or one.family in args.families]
    table = run(chosen, args.out / "results.json", SUBJECTS, args.time_limit, again=args.families, jobs=args.jobs)
    for one in chosen:
        ours = table["families"][one.family]["adapters"]
        wrong = {column: cell for column, cell in ours.items() if column not in NOTES and not judge(cell)}
        print(f"{one.family:28} {one.model_name:40} {wrong or 'ok'}")
    if not args.families:
        write_json(PAGE.with_suffix(".json"), table)
        write_text(PAGE, render(table, read_json(EXPORTS)))
        print(f"written: {PAGE}")
    return 0


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", default=[], metavar="NAME", help="files of timm.models, such as hiera")
    parser.add_argument("--records", action="store_true", help="write the records that adapters.list_models reads")
    parser.add_argument("--time-limit", type=float, default=300, help="seconds for one cell")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="measured at once (default: all cores)")
    parser.add_argument("--threads", type=int, default=1, help="of each (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "work_dirs" / "coverage")
    return parser.parse_args(arguments)
