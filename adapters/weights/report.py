"""What a load did, in one line when all is well and in a table when not."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Report:
    """What became of a checkpoint's tensors.

    Attributes:
        source: where they came from.
        form: the key format and the prefix under which they were found.
        loaded, expected: numbers of tensors of the adapter.
        fresh: parts of the adapter that no checkpoint but its own holds, and how they start.
        left_out: reasons why tensors of the checkpoint were not used, and the tensors.
        notes: what deserves a look: (kind, name, what happened).
    """

    source: str
    form: str = ""
    loaded: int = 0
    expected: int = 0
    fresh: list[str] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    notes: list[tuple[str, str, str]] = field(default_factory=list)

    def leave_out(self, reason: str, name: str) -> None:
        """Record a tensor of the checkpoint that nothing was done with."""
        self.left_out.setdefault(reason, []).append(name)

    def note(self, kind: str, name: str, what: str) -> None:
        """Record something that is fine but not plain copying."""
        self.notes.append((kind, name, what))

    def __str__(self) -> str:
        line = f"loaded {self.loaded} of {self.expected} tensors from {self.source} ({self.form})"
        for reason, names in self.left_out.items():
            line += f"; left out {len(names)} ({reason}: {some(names, 2)})"
        line += "".join(f"; {part}" for part in self.fresh)
        return line + (":\n" + table(self.notes) if self.notes else "")


def some(names: Sequence[str], count: int = 4) -> str:
    """The first few names."""
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


#: Rows of a table that are shown.
ROWS = 20


def table(rows: Sequence[tuple[str, ...]], limit: int = ROWS) -> str:
    """Rows in aligned columns."""
    shown = list(rows[:limit])
    widths = [max(len(row[column]) for row in shown) for column in range(len(shown[0]))]
    lines = [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in shown
    ]
    return "\n".join(lines + ([f"  ... and {len(rows) - limit} more"] if len(rows) > limit else []))
