"""The measurement as a page: totals beside those of the peers, a line for each family, and the reasons."""

from collections.abc import Mapping
from typing import Any

from adapters.describe.tables import markdown_table
from lab.coverage.checks import SIZES
from lab.exports.report import mark

Rows = Mapping[str, Mapping[str, Any]]

OK = "ok"
SUBJECTS = {"adapters": "this package", "timm": "timm `features_only`", "mmseg": "mmseg `TIMMBackbone`"}
#: Other columns of ours, and their heads in the table.
CHECKS = ("gradient", "reference", "compile", "frozen", "with_cp", "layer decay", "pyramid", "det step", "seg step")
REFERENCES = ("built", "square", "padded", "native")
#: Columns of the exports, and what :mod:`lab.exports` calls them.
EXPORTS = {"export fixed": "onnx fixed", "export free": "onnx free"}
#: Columns that describe and do not judge.
NOTES = ("levels", "seconds")

HEAD = """# What of timm works

One model for each family of timm {timm} (a file of `timm.models`), the one with the fewest parameters, measured with
torch {torch} on a CPU by `make coverage` ([`tools/measure_coverage.py`](../tools/measure_coverage.py)), which wrote
this page.
{refused}

A size counts when the maps are NCHW, of exactly `ceil(H / stride)` by `ceil(W / stride)` and the channels that the
wrapper itself says, in eval mode, and the numbers finite (the peers at 800 x 1344, and *train*, the same in train mode:
shapes alone, on tensors without data).

{totals}

The other columns: *gradient*, a backward pass at 97 x 65 in train mode reaches every parameter. *reference*, the maps
equal timm's own to 1e-4 with all parameters randomised: `built` is timm's model built for the padded image with
`img_size=...` and loaded through timm's own filters (at 190 x 253; `square`: at 190 x 190, where timm knows squares
alone), `padded` is timm's model as it is on the padded image, `native` the same at the model's own size alone. Where
timm's own rounding in float32 exceeds that (Gemma 4), they are equal to 1e-6 in float64, and in float32 as near to it.
*compile*, `torch.compile(backend="eager", dynamic=False)` gives the same numbers at 97 x 65 (tracing and guards, no
code). *frozen*, `frozen_stages=1` freezes the stem and the first stage and nothing else. *with_cp*, gradient
checkpointing recomputes and gives the same gradients. *layer decay*, every parameter has a layer of its own trunk.
*pyramid*, a model of one stride gives strides 4, 8, 16 and 32 through `SimpleFeaturePyramid`; others have at most four
levels by default. *det step* and *seg step*, one optimisation step of RetinaNet and of Semantic FPN, as
`tools/train.py CONFIG --backbone NAME` fits them. *export fixed* and *export free*, where they stand:
an ONNX file of one size and of any, [measured](export.md) by `tools/measure_exports.py`.

"""


def size_columns(row: Mapping[str, Any]) -> dict[str, str]:
    """Map the head of each size's column to the key of its cell, the native size first."""
    native = "x".join(map(str, row["native"]))
    return {"native": native, **{f"{h} x {w}": f"{h}x{w}" for h, w in SIZES}}


def judge(cell: str | None) -> bool:
    """Return whether a cell is as it should be."""
    return cell == OK or cell in REFERENCES


def render(table: Mapping[str, Any], exports: Mapping[str, Any] | None = None) -> str:
    """Write the page, in Markdown.

    Args:
        table: of the measurement.
        exports: that of ``tools/measure_exports.py``, for two more columns.
    """
    rows: Rows = table["families"]
    refused = [family for family, row in rows.items() if not judge(row["adapters"].get("build"))]
    sentence = f"Of {len(rows)} families {len(rows) - len(refused)} serve as backbones" + (
        f"; {_listed(refused)} cannot, [for the reasons below](#reasons)." if refused else "."
    )
    parts = [
        HEAD.format(timm=table["timm"], torch=table["torch"], refused=sentence, totals=_totals(rows)),
        _families(rows, (exports or {}).get("families", {})),
        "\n## Reasons\n\n",
        *(f"- {line}\n" for line in _reasons(rows)),
    ]
    return "".join(parts)


def _listed(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def totals(rows: Rows) -> dict[str, dict[str, int]]:
    """Count the families that are as they should be, by subject and column."""
    counts: dict[str, dict[str, int]] = {}
    for subject in SUBJECTS:
        count = counts[subject] = {}
        for row in rows.values():
            cells = row.get(subject, {})
            for column, key in size_columns(row).items():
                count[column] = count.get(column, 0) + judge(cells.get(key))
                if subject == "adapters":
                    train = f"train, {column}"
                    count[train] = count.get(train, 0) + judge(cells.get(f"train {key}"))
            for column in CHECKS if subject == "adapters" else ():
                count[column] = count.get(column, 0) + judge(cells.get(column))
    return counts


def _totals(rows: Rows) -> str:
    counts = totals(rows)
    lines = [[column, *(str(counts[subject].get(column, "")) for subject in SUBJECTS)] for column in counts["adapters"]]
    return markdown_table([f"of {len(rows)} families", *SUBJECTS.values()], lines, list(SUBJECTS.values()))


def _families(rows: Rows, exports: Rows) -> str:
    heads = ["family", "model", "M", "levels: channels/stride", *["native", *(f"{h} x {w}" for h, w in SIZES)], "train"]
    heads += [*CHECKS, "timm", "mmseg", *(EXPORTS if exports else ())]
    lines = []
    for family, row in sorted(rows.items()):
        ours = row["adapters"]
        keys = list(size_columns(row).values())
        cells = [family, f"`{row['model']}`", f"{row['parameters'] / 1e6:.1f}", ours.get("levels", "")]
        cells += [_mark(ours.get(key)) for key in keys]
        cells.append(_mark(OK if all(judge(ours.get(f"train {key}")) for key in keys) else "no"))
        cells += [ours[c] if ours.get(c) in REFERENCES else _mark(ours.get(c)) for c in CHECKS]
        cells += [f"{sum(judge(row.get(s, {}).get(key)) for key in keys)}/{len(keys)}" for s in ("timm", "mmseg")]
        if exports:
            cells += [mark(exports.get(family, {}), column) for column in EXPORTS.values()]
        lines.append(cells)
    return f"## Families\n\n{markdown_table(heads, lines)}\n"


def _mark(cell: str | None) -> str:
    return "yes" if judge(cell) else "no"


def _reasons(rows: Rows) -> list[str]:
    lines = []
    for family, row in sorted(rows.items()):
        ours = row["adapters"]
        for column, cell in ours.items():
            if column not in NOTES and not judge(cell):
                lines.append(f"**{family}**, {column}: {_escaped(cell)}")
    return lines or ["Everything is as it should be."]


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
