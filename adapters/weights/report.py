"""The report of a load: one line when all is well, with a table of what deserves a look."""

from collections.abc import Sequence
from dataclasses import dataclass, field

#: The kind, the name and the detail of a tensor's problem, or of something that deserves a look.
Row = tuple[str, str, str]

#: Rows of a table that are shown.
ROWS = 20


@dataclass
class Report:
    """An account of a checkpoint's tensors.

    Attributes:
        source: the name of the checkpoint.
        found_as: the key format of the backbone in it, and the prefix before its names.
        loaded: names of the adapter's tensors that are set.
        expected: the number of its tensors.
        fresh: parts of the adapter that the checkpoint holds nothing of, and how they start.
        left_out: reasons why tensors of the checkpoint were not used, and the tensors.
        elsewhere: names of the file's tensors that lie beside the backbone, as patterns.
        notes: tensors that were not simply copied, and settings that deserve a look.
    """

    source: str
    found_as: str = ""
    loaded: frozenset[str] = frozenset()
    expected: int = 0
    fresh: list[str] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    elsewhere: list[str] = field(default_factory=list)
    notes: list[Row] = field(default_factory=list)

    def leave_out(self, reason: str, name: str) -> None:
        """Record a tensor of the checkpoint that is not used."""
        self.left_out.setdefault(reason, []).append(name)

    def __str__(self) -> str:
        line = f"loaded {len(self.loaded)} of {self.expected} tensors from {self.source} ({self.found_as})"
        for reason, names in self.left_out.items():
            line += f"; left out {len(names)} ({reason}: {some(names, 2)})"
        if self.elsewhere:
            line += (
                f"; left out {len(self.elsewhere)} elsewhere in the file ({some(list(dict.fromkeys(self.elsewhere)))})"
            )
        line += "".join(f"; {part}" for part in self.fresh)
        return line + (":\n" + table(self.notes) if self.notes else "")


def some(names: Sequence[str], count: int = 4) -> str:
    """Join the first few names."""
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


def table(rows: Sequence[tuple[str, ...]], limit: int = ROWS) -> str:
    """Align the first rows in columns, and say how many more there are."""
    shown = rows[:limit]
    widths = [max(len(row[column]) for row in shown) for column in range(len(shown[0]))]
    lines = [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in shown
    ]
    return "\n".join(lines + ([f"  ... and {len(rows) - limit} more"] if len(rows) > limit else []))
