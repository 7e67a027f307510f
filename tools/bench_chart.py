"""The benchmark as a picture: a bar for each model and batch size, fastest first, a column for each thread count."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from tools.bench_ratio import ratio, summary

ROW, TOP, LABEL, BARS, VALUE, GAP = 15, 78, 140, 250, 40, 24
COLUMN = LABEL + BARS + VALUE + GAP
_FASTER, _SLOWER = "#2f7d5b", "#c8643c"


def draw(rows: Sequence[dict[str, Any]], about: dict[str, Any]) -> str:
    """Return the picture as the text of an SVG file. `about`: the machine, versions and date, as in the JSON file."""
    counts = sorted({row["threads"] for row in rows})
    columns = [_sorted(rows, count) for count in counts]
    longest = max((value for column in columns for value, _ in column), default=1.0)
    scale = BARS / max(longest, 1.25)
    width = max(2, len(counts)) * COLUMN + GAP
    height = TOP + ROW * max((len(column) for column in columns), default=0) + 16
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        ' font-family="sans-serif" font-size="11" fill="#222">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        _text(GAP, 20, "Latency of the better of ONNX Runtime and OpenVINO / latency of graphopt", size=14),
        _text(GAP, 38, _about(about)),
    ]
    for place, (count, column) in enumerate(zip(counts, columns, strict=True)):
        lines.extend(_column(GAP + place * COLUMN, count, column, scale))
    return "\n".join([*lines, "</svg>"]) + "\n"


def _sorted(rows: Sequence[dict[str, Any]], threads: int) -> list[tuple[float, dict[str, Any]]]:
    pairs = [(value, row) for row in rows if row["threads"] == threads and (value := ratio(row)) is not None]
    return sorted(pairs, key=lambda pair: (-pair[0], pair[1]["model"], pair[1]["batch"]))


def _about(about: dict[str, Any]) -> str:
    versions = about["versions"]
    named = [f"{name} {versions[name]}" for name in ("graphopt", "onnxruntime", "openvino") if versions.get(name)]
    return f"float32, medians; {about['cpu']}; {', '.join(named)}; {about['date'][:10]}"


def _column(x: int, threads: int, pairs: Sequence[tuple[float, dict[str, Any]]], scale: float) -> Iterator[str]:
    zero = x + LABEL
    bottom = TOP + ROW * len(pairs)
    found = summary([row for _, row in pairs])
    yield _text(x, 60, f"{threads} thread{'s' if threads > 1 else ''}", size=13)
    if found is None:
        return
    yield _text(zero, 60, f"geometric mean {found.mean:.2f}, least {found.least:.2f}")
    for at, dash in ((1.0, ""), (found.mean, ' stroke-dasharray="4 3"')):
        line = zero + at * scale
        yield f'<line x1="{line:.1f}" x2="{line:.1f}" y1="{TOP - 6}" y2="{bottom + 4}" stroke="#222"{dash}/>'
    for place, (value, row) in enumerate(pairs):
        y = TOP + ROW * place
        label = row["model"] + (f" x{row['batch']}" if row["batch"] > 1 else "")
        colour = _FASTER if value >= 1 else _SLOWER
        yield _text(zero - 6, y + 11, label, anchor="end")
        yield f'<rect x="{zero}" y="{y + 2}" width="{value * scale:.1f}" height="{ROW - 4}" fill="{colour}"/>'
        # The lines end after the numbers.
        yield f'<rect x="{zero + value * scale + 2:.1f}" y="{y + 2}" width="26" height="{ROW - 3}" fill="white"/>'
        yield _text(zero + value * scale + 4, y + 11, f"{value:.2f}")


def _text(x: float, y: float, text: str, anchor: str = "start", size: int = 11) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{escape(text)}</text>'
