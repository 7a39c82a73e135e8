"""The measurement of exports as a table: totals beside those of the peers, and the reasons."""

from collections.abc import Mapping
from typing import Any

from adapters.describe.tables import markdown_table
from lab.exports.measure import FILES

Rows = Mapping[str, Mapping[str, Any]]

OK = "ok"
#: The subjects, and their heads in the table.
SUBJECTS = {"adapters": "this package", "timm": "timm `features_only`", "transformers": "transformers `TimmBackbone`"}
HEADS = {
    "onnx free": "ONNX, any height and width",
    "onnx fixed": "ONNX, one height and width",
}


def totals(rows: Rows) -> dict[str, dict[str, int]]:
    """Count the families whose file is right, by subject and column."""
    return {
        subject: {column: sum(row.get(subject, {}).get(column) == OK for row in rows.values()) for column in FILES}
        for subject in SUBJECTS
    }


def render(rows: Rows) -> str:
    """Write the totals, a line for each family, and why a file is not written, in Markdown."""
    counts = totals(rows)
    measured = {subject: sum(subject in row for row in rows.values()) for subject in SUBJECTS}
    shown = [subject for subject in SUBJECTS if measured[subject]]
    lines = [
        [HEADS[column], *(f"{counts[subject][column]} of {measured[subject]}" for subject in shown)] for column in FILES
    ]
    heads = ["file", *(SUBJECTS[subject] for subject in shown)]
    families = [
        [family, f"`{row['model']}`", *(mark(row, column) for column in FILES)] for family, row in sorted(rows.items())
    ]
    parts = [
        markdown_table(heads, lines, heads[1:]),
        "\n\n",
        markdown_table(["family", "model", *HEADS.values()], families),
        "\n\nWhere it is *no*:\n\n",
        *(f"- {line}\n" for line in _reasons(rows)),
    ]
    return "".join(parts)


def mark(row: Mapping[str, Any], column: str) -> str:
    """Return the cell of our adapter's file, empty where it is not measured."""
    return "" if "adapters" not in row else "yes" if row["adapters"].get(column) == OK else "no"


def _reasons(rows: Rows) -> list[str]:
    lines = []
    for family, row in sorted(rows.items()):
        cells = row.get("adapters", {})
        for column in ("build", *FILES, "ended"):
            if column in cells and cells[column] != OK:
                text = cells[column].replace("|", "\\|").replace("<", "&lt;")
                lines.append(f"**{family}**, {HEADS.get(column, column)}: {text}")
    return lines
