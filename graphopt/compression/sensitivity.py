"""Sensitivity: how much error each layer contributes if it alone is quantized."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from typing import Any

from graphopt.util.tables import Table, format_count

from .layer_errors import ResultError, decibels


@dataclass
class LayerError:
    """The error of the model's outputs if only one layer is quantized: noise over signal, and as decibels.

    `cost`: what the layer takes as floats, `saved` what quantization saves of it, both by the cost table. `loss`: what
    the metric loses on the same cases.
    """

    layer: str
    op: str
    noise: float
    cost: float
    saved: float
    loss: float = 0.0

    @property
    def sqnr(self) -> float:
        """Signal over noise in decibels: more is better."""
        return decibels(self.noise)


@dataclass
class Sensitivity:
    """The errors of all layers that can be quantized, and what each loses of a metric, measured on `cases` cases."""

    layers: list[LayerError] = field(default_factory=list)
    cases: int = 0
    metric: str = ""

    def worst_first(self) -> list[LayerError]:
        """The layers, those with the largest error first."""
        return sorted(self.layers, key=lambda one: -one.noise)

    def table(self) -> Table:
        """Return one row per layer, the most sensitive first."""
        columns = ("layer", "SQNR of the outputs", f"{self.metric or 'metric'} lost", "cost as floats", "saved")
        table = Table(f"one layer quantized at a time, {self.cases} cases", columns, right=frozenset(columns[1:]))
        for one in self.worst_first():
            figures = f"{one.sqnr:.1f} dB", f"{one.loss:.2%}", format_count(one.cost), format_count(one.saved)
            table.add(f"{one.op} '{one.layer}'", *figures)
        return table

    def to_json(self) -> dict[str, Any]:
        """Return the figures as JSON types."""
        layers = [{**asdict(one), "sqnr": one.sqnr} for one in self.worst_first()]
        return {"cases": self.cases, "metric": self.metric, "layers": layers}


WIDTH, LEFT, BARS, ROW, TOP = 900, 330, 460, 20, 48


def draw_errors(layers: Sequence[LayerError | ResultError], title: str) -> str:
    """Return a picture of the errors as the text of an SVG file: a bar per layer, in the order of the model.

    Bars grow with the error: their lengths are decibels above the layer with the least.
    """
    rows = [one for one in layers if math.isfinite(one.sqnr)]
    height = TOP + ROW * len(layers) + 12
    best = max((one.sqnr for one in rows), default=0.0) + 3
    worst = min((one.sqnr for one in rows), default=0.0)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
        ' font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="12" y="24" font-size="14">{escape(title)}</text>',
    ]
    for place, one in enumerate(layers):
        y = TOP + ROW * place
        length = BARS * (best - one.sqnr) / max(best - worst, 1e-9) if math.isfinite(one.sqnr) else 0.0
        lines.append(f'<text x="{LEFT - 8}" y="{y + 11}" text-anchor="end">{escape(one.layer[-48:])}</text>')
        lines.append(f'<rect x="{LEFT}" y="{y + 2}" width="{length:.1f}" height="{ROW - 6}" fill="#b05a4a"/>')
        lines.append(f'<text x="{LEFT + length + 6:.1f}" y="{y + 11}">{one.sqnr:.1f} dB</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"
