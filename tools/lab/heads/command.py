"""Export detectors and segmentors of every kind of head and backbone, and compare what the files predict.

Each case has a process of its own; results are kept in a JSON file beside the page, and a second run goes on from
there.

    python tools/measure_heads.py                        # everything that is missing, then the page
    python tools/measure_heads.py --stop-after 400       # in pieces
    python tools/measure_heads.py --cases "DINO on ResNet"   # these alone, anew
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from adapters.files import write_text
from lab.child import collect
from lab.heads.cases import CASES
from lab.heads.measure import measure
from lab.heads.report import is_good, render, totals
from lab.results import Results

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "export_heads.md"

HEAD = """# Which detectors and segmentors export

Heads at the full width of our recipes, on backbones of full width and few blocks, all parameters randomised, written by
[`tools/measure_heads.py`](../tools/measure_heads.py) with torch {torch} on a CPU. *Yes* means that an ONNX file of free
batch, height and width (of Mask R-CNN three files) equalled the model at six sizes that were not traced, to the share
of an output's largest value that stands beside it; and that [`decoding`](export_models.md), in numpy and onnxruntime
alone, found in it what `predict` of mmdet or mmseg finds with the model, at three more sizes: the same classes, boxes
of an IoU of 0.99, scores to 1e-3, and masks and label maps of which less than a thousandth of the pixels differ. DINO
has 100 queries and two layers of each kind, Mask2Former two layers of its pixel decoder and three of its decoder.

{dense} of 42 dense heads, {queries} of 9 two-stage and query heads; an empty cell is not measured yet.

"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, and write the page."""
    args = parse_args(arguments)
    if unknown := sorted(set(args.cases) - set(CASES)):
        raise ValueError(f"there is no case {unknown[0]!r}; there are {', '.join(CASES)}.")
    torch.set_num_threads(args.threads)
    kept = Results(args.page.with_suffix(".json"), {"torch": torch.__version__.partition("+")[0]})
    started = time.monotonic()
    for case in tqdm(args.cases or list(CASES), dynamic_ncols=True, disable=None):
        if time.monotonic() - started > args.stop_after:
            break
        if args.cases or not is_good(kept.by_name.get(case, {})):
            row = kept.add(case, collect(measure, args.time_limit, case))
            print(f"{case:30} {'ok' if is_good(row) else row}", flush=True)
    dense, queries = totals(kept.by_name)
    print(f"{dense} of 42 dense heads, {queries} of 9 two-stage and query heads")
    head = HEAD.format(dense=dense, queries=queries, **kept.conditions)
    write_text(args.page, head + render(kept.by_name))
    print(f"written: {args.page}")
    return 0


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=[], metavar="NAME", help="such as 'DINO on ResNet'")
    parser.add_argument("--stop-after", type=float, default=float("inf"), help="seconds; then no case is begun")
    parser.add_argument("--time-limit", type=float, default=600, help="seconds for one step of a case")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: %(default)s)")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page to write")
    return parser.parse_args(arguments)
