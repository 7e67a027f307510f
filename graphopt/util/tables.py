"""Tables of results as plain data, and the formatting of numbers for people.

The command line draws a `Table` with rich on a terminal; `to_text` renders the same table for logs and `print`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Table:
    """Rows of text under column names; the columns named in `right` are right-aligned."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    right: frozenset[str] = frozenset()

    def add(self, *cells: object) -> None:
        """Append a row; integers get thousands separators. Raises ValueError on a wrong number of cells."""
        if len(cells) != len(self.columns):
            raise ValueError(f"{len(cells)} cells for the {len(self.columns)} columns of {self.title!r}")
        self.rows.append(tuple(f"{cell:,}" if type(cell) is int else str(cell) for cell in cells))

    def to_text(self) -> str:
        """Return the table in aligned columns; no line is wrapped or truncated."""
        lines = [self.columns, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.columns))]
        text = [self._line(line, widths) for line in lines]
        text.insert(1, "  ".join("-" * width for width in widths))
        return "\n".join([self.title, *text] if self.title else text)

    def _line(self, cells: Sequence[str], widths: Sequence[int]) -> str:
        parts = [
            cell.rjust(width) if column in self.right else cell.ljust(width)
            for cell, width, column in zip(cells, widths, self.columns, strict=True)
        ]
        return "  ".join(parts).rstrip()


def format_bytes(size: int) -> str:
    """Format a size in decimal units: `512 B`, `4.85 MB`."""
    return f"{size:,} B" if size < 1000 else _scaled(size, ("kB", "MB", "GB", "TB"))


def format_count(number: int | float) -> str:
    """Format a large number with a decimal prefix: `640`, `3.86 G`."""
    return f"{number:,.0f}" if number < 1000 else _scaled(number, ("k", "M", "G", "T", "P"))


def format_seconds(seconds: float) -> str:
    """Format a duration with three significant digits: `830 us`, `12.4 ms`, `3.02 s`."""
    for limit, scale, unit in ((1e-3, 1e6, "us"), (1.0, 1e3, "ms")):
        if seconds < limit:
            return f"{_three_digits(seconds * scale)} {unit}"
    return f"{_three_digits(seconds)} s"


def _scaled(number: float, units: tuple[str, ...]) -> str:
    scaled = number / 1000
    for unit in units[:-1]:
        if scaled < 999.5:
            return f"{_three_digits(scaled)} {unit}"
        scaled /= 1000
    return f"{_three_digits(scaled)} {units[-1]}"


def _three_digits(number: float) -> str:
    digits = 2 if number < 9.995 else 1 if number < 99.95 else 0
    return f"{number:,.{digits}f}"
