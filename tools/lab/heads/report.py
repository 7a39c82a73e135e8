"""The measurement of whole models as a table: heads by backbones, and the reasons."""

from collections.abc import Mapping, Sequence

from adapters.describe.tables import markdown_table
from lab.child import ENDED
from lab.heads.cases import BACKBONES, CASES, DENSE, QUERIES, QUERY_BACKBONES

Rows = Mapping[str, Mapping[str, str]]
OK = "ok"


def is_good(row: Mapping[str, str]) -> bool:
    """Return whether a case has a verified file that predicts as the model does."""
    return row.get("file") == OK and row.get("predictions") == OK


def render(rows: Rows) -> str:
    """Write both tables, and why a cell is *no*, in Markdown."""
    parts = [_table(rows, tuple(DENSE), tuple(BACKBONES)), "\n\n", _table(rows, tuple(QUERIES), QUERY_BACKBONES), "\n"]
    reasons = [f"- **{case}**: {_reason(rows[case])}\n" for case in CASES if case in rows and not is_good(rows[case])]
    return "".join([*parts, *(["\nWhere it is *no*:\n\n", *reasons] if reasons else [])])


def totals(rows: Rows) -> tuple[int, int]:
    """Count the good cases of the dense heads, and of the two-stage and query heads."""
    good = [CASES[case][0] for case, row in rows.items() if is_good(row)]
    return sum(head in DENSE for head in good), sum(head in QUERIES for head in good)


def _table(rows: Rows, heads: Sequence[str], backbones: Sequence[str]) -> str:
    lines = [[head, *(_cell(rows.get(f"{head} on {name}")) for name in backbones)] for head in heads]
    return markdown_table(["head", *backbones], lines)


def _cell(row: Mapping[str, str] | None) -> str:
    if row is None:
        return ""
    return f"yes, {row['difference']}" if is_good(row) else "no"


def _reason(row: Mapping[str, str]) -> str:
    wrong = [row[column] for column in ("file", "predictions", ENDED) if row.get(column, OK) != OK]
    return "; ".join(wrong).replace("|", "\\|").replace("<", "&lt;")
