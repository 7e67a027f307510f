"""The picture of activation statistics: one histogram per value, each with its own scale and its range."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

import numpy as np

from .accumulators import HISTOGRAM_BINS, Histogram, Range
from .statistics import ActivationStatistics

WIDTH, LEFT, BARS, ROW, TOP = 1100, 330, 560, 44, 48
_COLUMNS = 140
_COLOUR = "#4878a8"


def draw(statistics: ActivationStatistics, title: str) -> str:
    """Return the picture as the text of an SVG file; values without a histogram are omitted.

    Heights are logarithms of counts: outliers, which determine quantization errors, are few and must be visible.
    """
    rows = [(name, kinds) for name, kinds in statistics.values.items() if isinstance(kinds.get("histogram"), Histogram)]
    height = TOP + ROW * len(rows) + 12
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
        ' font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="12" y="24" font-size="14">{escape(title)}: {statistics.samples:,} samples,'
        " counts as logarithms</text>",
    ]
    for place, (name, kinds) in enumerate(rows):
        histogram, range_ = kinds["histogram"], kinds.get("range")
        assert isinstance(histogram, Histogram)
        lines.extend(_row(name, histogram, range_ if isinstance(range_, Range) else None, TOP + ROW * place))
    return "\n".join([*lines, "</svg>"]) + "\n"


def _row(name: str, histogram: Histogram, range_: Range | None, y: int) -> Iterator[str]:
    low, high = _extent(histogram)
    counts = histogram.counts[low:high]
    columns = [int(part.sum()) for part in np.array_split(counts, min(_COLUMNS, len(counts)))]
    logs = np.log1p(columns)
    width = BARS / len(columns)
    base = y + ROW - 10
    yield f'<text x="{LEFT - 8}" y="{base - 8}" text-anchor="end">{escape(_shortened(name))}</text>'
    for index, part in enumerate(logs / (logs.max() or 1.0)):
        if part:
            tall = part * (ROW - 14)
            x = LEFT + index * width
            yield (
                f'<rect x="{x:.1f}" y="{base - tall:.1f}" width="{max(width - 0.5, 0.5):.1f}" height="{tall:.1f}"'
                f' fill="{_COLOUR}"/>'
            )
    ends = [(edge / (HISTOGRAM_BINS / 2) - 1) * histogram.limit for edge in (low, high)]
    if range_ is not None and range_.low <= range_.high:
        ends = [range_.low, range_.high]
    yield f'<line x1="{LEFT}" x2="{LEFT + BARS}" y1="{base}" y2="{base}" stroke="#b0b0b0"/>'
    yield f'<text x="{LEFT + BARS + 8}" y="{base - 8}">{ends[0]:.4g} to {ends[1]:.4g}</text>'


def _extent(histogram: Histogram) -> tuple[int, int]:
    """Return the first, and one past the last, non-empty bin."""
    full = np.flatnonzero(histogram.counts)
    return (int(full[0]), int(full[-1]) + 1) if full.size else (0, HISTOGRAM_BINS)


def _shortened(name: str, most: int = 48) -> str:
    half = (most - 3) // 2
    return name if len(name) <= most else f"{name[:half]}...{name[-half:]}"
