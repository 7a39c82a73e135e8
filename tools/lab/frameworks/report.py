"""The measurement as a page: how many families take a step in each head and at each size, and a line for each."""

from collections.abc import Iterable, Mapping
from typing import Any

from adapters.describe.tables import markdown_table
from lab.coverage.report import OK
from lab.frameworks.measure import HEADS_REFUSAL, ROUND_TRIP, SIZES

Rows = Mapping[str, Mapping[str, Any]]

HEADS = {
    "torchvision": ("FasterRCNN", "MaskRCNN", "RetinaNet", "FCOS"),
    "transformers": ("Mask2Former", "DETR", "UPerNet"),
    "smp": ("Unet", "FPN", "UPerNet", "DPT"),
}
#: The frameworks' own ways to timm.
WRAPPERS = {"transformers": "`TimmBackbone`", "smp": "`tu-`"}

PAGE = """# Other frameworks, measured

One model for each family of timm {timm}, the one with the fewest parameters, in the heads of
[other frameworks](frameworks.md), measured with torch {torch} on a CPU by
[`tools/check_frameworks.py`](../tools/check_frameworks.py), which wrote this page: {count} of the {total} families that
serve as backbones{rest}.

A step counts when the loss of two training images is finite; of an adapter, when a finite gradient also reaches every
parameter of its trunk that trains. The heads are as small as they come. An adapter gives strides 4, 8, 16 and 32, by
`SimpleFeaturePyramid` where its model does not; DETR takes the last map, DPT the maps of a model of one stride. Beside
it stand the frameworks' own wrappers of timm, asked for the same strides where they have them, or for their last four
maps: transformers' `TimmBackbone` and smp's `tu-` encoders; torchvision has none. smp's FPN, UPerNet and DPT refuse an
image of 97 x 65 themselves, whatever the encoder.

{totals}

{round_trips} of the {count} come back from `save_pretrained` and `from_pretrained` with every parameter moved: the same
tensors, bit for bit, and the same maps at 97 x 65 but for rounding.

## Families

Heads in which a step works, of torchvision's 4, transformers' 3 and smp's 4 (1 at the odd size), at {sizes};
in brackets the frameworks' own wrappers.

{families}

## Reasons

{reasons}
"""


def render(table: Mapping[str, Any], expected: Iterable[str]) -> str:
    """Write the page, in Markdown.

    Args:
        table: what was measured.
        expected: the families of the complete measurement.
    """
    rows: Rows = {family: row for family, row in table["families"].items() if {"adapters", "wrappers"} <= row.keys()}
    total = len(set(expected))
    return PAGE.format(
        timm=table["timm"],
        torch=table["torch"],
        count=len(rows),
        total=total,
        rest="; the others are not measured yet" if len(rows) < total else "",
        totals=_totals(rows),
        round_trips=_count(rows, "adapters", ROUND_TRIP),
        sizes=", ".join(f"{height} x {width}" for height, width in SIZES),
        families=_families(rows),
        reasons="\n".join(_reasons(rows)),
    )


def keys_of(framework: str) -> list[list[str]]:
    """Name the cells of a framework's heads, size by size."""
    return [[f"{framework} {head} {height}x{width}" for head in HEADS[framework]] for height, width in SIZES]


def _totals(rows: Rows) -> str:
    heads = [f"of {len(rows)} families"]
    heads += [f"{height} x {width}" for height, width in SIZES]
    lines = []
    for framework, names in HEADS.items():
        for place, name in enumerate(names):
            line = [f"{framework} {name}"]
            for keys in keys_of(framework):
                key = keys[place]
                if _head_refuses(rows, key):
                    line.append("the head refuses")
                    continue
                line.append(str(_count(rows, "adapters", key)))
                if framework in WRAPPERS:
                    line[-1] += f" ({WRAPPERS[framework]}: {_count(rows, 'wrappers', key)})"
            lines.append(line)
    return markdown_table(heads, lines)


def _head_refuses(rows: Rows, key: str) -> bool:
    """Tell whether a head refuses a size whatever the encoder."""
    return all(HEADS_REFUSAL in row["adapters"].get(key, "") for row in rows.values())


def _count(rows: Rows, subject: str, key: str) -> int:
    return sum(row[subject].get(key) == OK for row in rows.values())


def _families(rows: Rows) -> str:
    lines = []
    for family, row in sorted(rows.items()):
        line = [family, f"`{row['model']}`"]
        for framework in HEADS:
            counts = []
            for subject in ("adapters", *(["wrappers"] if framework in WRAPPERS else [])):
                cells = row[subject]
                counts.append(" ".join(str(sum(cells.get(key) == OK for key in keys)) for keys in keys_of(framework)))
            line.append(counts[0] + "".join(f" ({count})" for count in counts[1:]))
        lines.append(line)
    return markdown_table(["family", "model", *HEADS], lines)


def _reasons(rows: Rows) -> list[str]:
    lines = []
    for family, row in sorted(rows.items()):
        for column, cell in row["adapters"].items():
            if column != "seconds" and cell != OK and not _head_refuses(rows, column):
                text = cell.replace("|", "\\|").replace("<", "&lt;")
                lines.append(f"- **{family}**, {column}: {text}")
    return lines or ["Every step of an adapter works, wherever the head takes the size."]
