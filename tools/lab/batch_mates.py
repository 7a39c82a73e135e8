"""Differences that the other images of a batch make to an image's maps, padded and exact, for each of timm's families.

The smallest model of each family, its parameters randomised, gets four images of several sizes: each alone, all in a
padded batch, and all in a batch with sizes. The largest difference inside an image's own cells, relative to the largest
value of the map alone, stands in a table of docs/batch_padding.md. Results are kept; a second run measures what is
missing.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor
from tqdm import tqdm

from adapters import TimmAdapter
from adapters.describe.tables import markdown_table
from adapters.files import read_json, write_json, write_text
from lab.child import ENDED, collect
from lab.randomise import randomise
from lab.results import Results

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "batch_padding.md"
RECORDS = ROOT / "docs" / "batch_mates.json"
#: Models of timm's families, as docs/coverage.md has them.
FAMILIES = ROOT / "docs" / "coverage.json"

#: Height and width of the images of the batch, two of which most models pad alike.
SIZES = ((160, 208), (102, 151), (97, 131), (155, 100))
LIMIT = 1e-4
#: The heading of the page under which the table stands, to the end.
HEADING = "## Measured\n"


def make_batch(sizes: Sequence[tuple[int, int]], channels: int) -> tuple[Tensor, list[Tensor]]:
    """Draw images, and return them as a batch ``(B, C, H, W)`` with zeros beyond each, and alone, ``(1, C, h, w)``."""
    generator = torch.Generator().manual_seed(1)
    alone = [torch.randn(1, channels, *size, generator=generator) for size in sizes]
    height, width = (max(sides) for sides in zip(*sizes, strict=True))
    batch = torch.zeros(len(sizes), channels, height, width)
    for place, image in zip(batch, alone, strict=True):
        place[:, : image.shape[-2], : image.shape[-1]] = image[0]
    return batch, alone


def difference(together: Sequence[Tensor], alone: Sequence[Sequence[Tensor]]) -> float:
    """Return the largest difference of maps ``(B, C, h, w)`` to those of the images alone, inside their own cells.

    Raises:
        ValueError: the maps are not finite, so that they cannot be compared.
    """
    worst = 0.0
    for index, maps in enumerate(alone):
        for one, several in zip(maps, together, strict=True):
            rows, columns = one.shape[-2:]
            apart = (several[index : index + 1, :, :rows, :columns] - one).abs().max()
            if not one.abs().max() < float("inf"):
                raise ValueError("the map of an image alone is not finite.")
            worst = max(worst, float(apart / one.abs().max()))
    return worst


@torch.no_grad()
def measure(model_name: str, sizes: Sequence[tuple[int, int]] = SIZES) -> Iterator[tuple[str, str]]:
    """Yield the differences of a model in a padded and an exact batch, and in float64 where float32 is too coarse."""
    torch.manual_seed(0)
    adapter = randomise(TimmAdapter(model_name), fan_in_share=0.5).eval()
    batch, images = make_batch(sizes, adapter.in_channels)
    alone = [adapter(image) for image in images]
    exact = difference(adapter(batch, sizes), alone)
    yield "exact", f"{exact:.1e}"
    yield "padded", f"{difference(adapter(batch), alone):.1e}"
    if not exact <= LIMIT:
        adapter = adapter.double()
        precise = difference(adapter(batch.double(), sizes), [adapter(image.double()) for image in images])
        yield "exact in float64", f"{precise:.1e}"


def render(records: dict[str, Any]) -> str:
    """Write what the page says under its heading."""
    rows = [[family, f"`{cells['model']}`", *_cells(cells)] for family, cells in sorted(records["families"].items())]
    exact = [cells for cells in records["families"].values() if _is_exact(cells)]
    sizes = ", ".join(f"{height} x {width}" for height, width in SIZES)
    text = (
        f"One model of each of {len(rows)} families of timm {records['timm']}, the one with the fewest parameters, all "
        f"parameters randomised, on a CPU in float32: images of {sizes} in one batch, and each alone. *padded* and "
        "*exact* are the largest differences inside an image's own cells, relative to the largest value of a map. "
        f"{len(exact)} of {len(rows)} are exact to 1e-4. `python tools/measure_batch_mates.py` wrote this table.\n\n"
    )
    return text + markdown_table(("family", "model", "padded", "exact"), rows, ("padded", "exact")) + "\n"


def _cells(cells: dict[str, str]) -> list[str]:
    if ENDED in cells:
        return ["", cells[ENDED]]
    share = 100 * float(cells["padded"])
    precise = f" ({cells['exact in float64']} in float64)" if "exact in float64" in cells else ""
    exact = cells["exact"] if float(cells["exact"]) else "0"
    return [f"{share:.0f}%" if share >= 10 else f"{share:.2g}%", exact + precise]


def _is_exact(cells: dict[str, str]) -> bool:
    return ENDED not in cells and float(cells.get("exact in float64", cells["exact"])) <= LIMIT


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing; write the table once all families are measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", default=[], metavar="NAME", help="these alone, such as hiera")
    parser.add_argument("--time-limit", type=float, default=120, help="seconds for one number (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "work_dirs" / "batch_mates", help="folder of the results")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    covered = read_json(FAMILIES, {})["families"]
    models = {family: row["model"] for family, row in covered.items() if row["adapters"].get("build") == "ok"}
    if unknown := sorted(set(args.families) - set(models)):
        raise ValueError(f"no family {', '.join(unknown)} works as a backbone; these do: {', '.join(models)}.")
    results = Results(args.out / "results.json", {"timm": timm.__version__, "sizes": SIZES})
    chosen = args.families or [family for family in models if family not in results.by_name]
    for family in tqdm(chosen, desc="families", dynamic_ncols=True, disable=None):
        cells = results.add(family, {"model": models[family], **collect(measure, args.time_limit, models[family])})
        print(f"{family:28} {' '.join(_cells(cells))}", flush=True)
    if set(models) <= set(results.by_name):
        records = {"timm": timm.__version__, "families": results.by_name}
        write_json(RECORDS, records)
        write_text(PAGE, PAGE.read_text().partition(HEADING)[0] + HEADING + "\n" + render(records))
        print(f"written: {PAGE}")
    return 0
