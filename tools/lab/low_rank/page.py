"""The end of the page on low-rank tuning: what was measured, in Markdown."""

import re
import statistics
import textwrap
from collections.abc import Mapping
from typing import Any

from adapters.describe.tables import markdown_table
from lab.child import ENDED
from lab.learning.check import METRIC
from lab.low_rank.families import TOLERANCE
from lab.low_rank.memory import BATCH, MODEL, SIZE
from lab.low_rank.transfer import METHODS

#: The line at which the written part of the page ends.
HEADING = "## Measured\n"

#: Columns of a family's row after its name and model.
COLUMNS = {"attention": "`attention`", "mlp": "`mlp`", "all": "`all`", "base": "frozen weights", "merged": "merged"}


def render(table: Mapping[str, Any]) -> str:
    """Write the heading and all that follows it."""
    parts = [
        HEADING,
        _paragraph(
            f"By `tools/measure_low_rank.py`, which wrote what follows, with timm {table['timm']} and torch "
            f"{table['torch']} on a CPU of two cores."
        ).rstrip("\n"),
        "\n",
    ]
    if "memory" in table:
        parts.append(_memory(table["memory"]))
    if "transfer" in table:
        parts.append(_transfer(table["transfer"]))
    if "families" in table:
        parts.append(_families(table["families"]))
    return "".join(parts)


def _memory(sides: Mapping[str, int]) -> str:
    full = next(iter(sides.values()))
    rows = [
        {"": name, "peak MiB": f"{peak / 2**20:,.0f}", "of full fine-tuning": f"{peak / full:.2f}"}
        for name, peak in sides.items()
    ]
    return _paragraph(
        f"`memory`: the peak of two training steps of `{MODEL}` with AdamW, {BATCH} images of {SIZE[0]} x {SIZE[1]}: "
        "weights, gradients, moments and what is kept for the backward pass, each side in a process of its own."
    ) + _markdown(rows)


def _transfer(results: Mapping[str, Mapping[str, Any]]) -> str:
    seeds = sorted({name.rpartition(" ")[2] for name in results if not name.startswith("pre")})
    rows = []
    for method in METHODS:
        scores = [results[f"{method} {seed}"][METRIC] for seed in seeds if f"{method} {seed}" in results]
        shares = [
            results[f"{method} {seed}"][METRIC] / results[f"full {seed}"][METRIC]
            for seed in seeds
            if f"{method} {seed}" in results and f"full {seed}" in results
        ]
        if scores and shares:
            rows.append(
                {
                    "trunk": method,
                    "mIoU, seed by seed": ", ".join(f"{score:.1f}" for score in scores),
                    "mean": f"{statistics.mean(scores):.1f}",
                    "of full fine-tuning": f"{statistics.mean(shares):.2f}",
                }
            )
    return _paragraph(
        "`transfer`: Semantic FPN on a small Twins, pretrained on three of the six generated classes, then tuned on "
        "the other three with a tenth of the images; the neck and the head start anew. LoRA: `r=8, alpha=16, "
        "targets='all'`, at ten times the learning rate."
    ) + _markdown(rows)


def _families(rows: Mapping[str, Mapping[str, str]]) -> str:
    failed = [name for name, row in rows.items() if not is_right(row)]
    transformers = [share for row in rows.values() if (share := _share(row.get("attention", ""))) is not None]
    low = sum(share < 3 for share in transformers)
    body = [
        {
            "family": name,
            "model": f"`{row['model']}`",
            "trunk M": f"{int(row.get('parameters', 0)) / 1e6:.1f}",
            **{head: row.get(column, row.get(ENDED, "")) for column, head in COLUMNS.items()},
            "merged": ", in float64 ".join(row[key] for key in ("merged", "merged float64") if key in row),
        }
        for name, row in rows.items()
    ]
    return _paragraph(
        f"`families`: the smallest model of each, rank 8. By meaning: the layers that get factors, and the share of "
        f"the trunk that trains; with `attention` it is below 3% for {low} of the {len(transformers)} that have some. "
        "Then, with `all`, after two steps of AdamW: whether every tensor that is no factor is as it was, bit by bit, "
        "and by how much the merged model's maps differ, relative to their size. "
        f"{len(rows) - len(failed)} of {len(rows)} are right in this, and all their factors have gradients, with "
        "`with_cp`, too" + (f"; not {', '.join(failed)}." if failed else ".")
    ) + _markdown(body)


def is_right(row: Mapping[str, str]) -> bool:
    """Return whether training and merging a model did what they should."""
    trained = {row.get("gradients"), row.get("with_cp")} == {"all"} and row.get("base") == "identical"
    return ENDED not in row and trained and float(row.get("merged float64") or row["merged"]) < TOLERANCE


def _share(cell: str) -> float | None:
    match = re.search(r"([\d.]+)%", cell)
    return float(match[1]) if match else None


def _paragraph(text: str) -> str:
    return "\n" + textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False) + "\n\n"


def _markdown(rows: list[dict[str, str]]) -> str:
    return markdown_table(list(rows[0]), [list(row.values()) for row in rows]) + "\n" if rows else ""
