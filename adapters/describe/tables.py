"""Rows of a table, for a terminal, a Markdown page or a program."""

import json
from collections.abc import Container, Iterable, Sequence
from typing import Any

from rich.table import Table

from adapters.describe.backbones import Backbone
from adapters.describe.counting import Count
from adapters.levels import Level

Row = dict[str, Any]


def backbone_row(backbone: Backbone) -> Row:
    """Make a model's line in a table."""
    return {
        "model": backbone.name,
        "family": backbone.family,
        "channels": [level.channels for level in backbone.levels],
        "strides": [level.stride for level in backbone.levels],
        **_count_cells(backbone.count),
        "note": "",
    }


def failed_row(name: str, error: Exception) -> Row:
    """Make the line of a model that cannot be described, with the reason."""
    cells = dict.fromkeys(
        ("family", "channels", "strides", "size", "parameters (M)", "multiply-adds (G)", "attention (G)")
    )
    return {"model": name, **cells, "note": str(error)}


def config_row(name: str, kind: str, levels: Sequence[Level], count: Count) -> Row:
    """Make a config's line in a table."""
    return {
        "model": name,
        "family": kind,
        "channels": [level.channels for level in levels],
        "strides": [level.stride for level in levels],
        **_count_cells(count),
        "note": "",
    }


def _count_cells(count: Count) -> Row:
    return {
        "size": list(count.size),
        "parameters (M)": round(count.parameters / 1e6, 2),
        "multiply-adds (G)": round(count.multiply_adds / 1e9, 2),
        "attention (G)": round(count.attention / 1e9, 2),
    }


def _format_cell(value: Any) -> str:
    """Write ``[800, 600]`` as ``800, 600``, and None as nothing."""
    if value is None:
        return ""
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def to_markdown(rows: Sequence[Row]) -> str:
    """Write a Markdown table, numbers to the right."""
    names = list(rows[0])
    numeric = {name for name in names if all(isinstance(row[name], int | float | None) for row in rows)}
    return markdown_table(names, [[_format_cell(row[name]) for name in names] for row in rows], numeric)


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]], right_aligned: Container[str] = ()) -> str:
    """Write a Markdown table of texts, columns to the left; those in ``right_aligned``, by heading, to the right."""
    rule = "|".join("---:" if heading in right_aligned else "---" for heading in headings)
    return "\n".join([f"| {' | '.join(headings)} |", f"|{rule}|", *(f"| {' | '.join(cells)} |" for cells in rows)])


def to_json(rows: Sequence[Row]) -> str:
    """Write a JSON list of objects, with the columns' names as keys."""
    return json.dumps(list(rows), indent=1)


def to_table(rows: Sequence[Row]) -> Table:
    """Make a table for a terminal; columns that are empty throughout are left out."""
    names = [name for name in rows[0] if any(row[name] not in (None, "", []) for row in rows)]
    table = Table(*names)
    for row in rows:
        table.add_row(*(_format_cell(row[name]) for name in names))
    return table
