"""The report of `quantize`: what became integers, what did not and why, and what it cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from graphopt.compression.judge import Measurement
from graphopt.compression.layer_errors import ResultError, results_json
from graphopt.compression.layers import Layer
from graphopt.compression.sensitivity import Sensitivity
from graphopt.rewriting.report import Report
from graphopt.util.codec import encode
from graphopt.util.tables import Table, format_bytes, format_count, format_seconds

if TYPE_CHECKING:
    from .placing import Placement
    from .speed import Speed


@dataclass
class QuantizationReport:
    """What quantization did.

    `pipeline` is what `graphopt optimize --passes` repeats it with. `before` and `after` are the layers of the model as
    quantization found and left it. `reasons`: why layers were left, by their labels. `limit`: the largest loss allowed,
    None without a budget. `warnings`: what looks wrong about the data. `tried`: how many whole models were measured.
    `errors`: those of the layers' results. `costs`: the layers before and after in `unit`, by the cost table.
    `speed`: what was measured on this machine, if that was requested. `placement`: where layers are faster on a target.
    """

    pipeline: str
    passes: Report
    before: list[Layer]
    after: list[Layer]
    measured: Measurement
    reasons: dict[str, str] = field(default_factory=dict)
    limit: float | None = None
    warnings: list[str] = field(default_factory=list)
    errors: list[ResultError] = field(default_factory=list)
    sensitivity: Sensitivity | None = None
    speed: Speed | None = None
    costs: tuple[float, float] = (0.0, 0.0)
    unit: str = ""
    tried: int = 1
    files: dict[str, int] = field(default_factory=dict)
    placement: Placement | None = None

    @property
    def met(self) -> bool:
        """Whether the loss is within the budget, if there is one."""
        return self.limit is None or self.measured.loss <= self.limit

    @property
    def changed(self) -> list[Layer]:
        """The layers that do not compute in the precision that they had."""
        known = {layer.label: layer.precision for layer in self.before}
        return [layer for layer in self.after if layer.precision != known.get(layer.label, "")]

    @property
    def share(self) -> float:
        """The share of the arithmetic of layers that changed its precision; of their number where sizes are open."""
        weigh = sum(layer.flops for layer in self.after)
        if not weigh:
            return len(self.changed) / max(len(self.after), 1)
        return sum(layer.flops for layer in self.changed) / weigh

    def reason(self, layer: Layer) -> str:
        """Why a layer was left as it was, as the first lossy pass that declined it told."""
        placed = [] if self.placement is None else self.placement.floats
        for one in placed:
            if one.layer.label == layer.label:
                return one.reason
        why = self.reasons.get(layer.label, "")
        return why.partition(": ")[2] or why

    def left(self) -> list[tuple[Layer, str]]:
        """The layers that stayed as they were, with the reasons."""
        changed = {layer.label for layer in self.changed}
        return [(layer, self.reason(layer)) for layer in self.after if layer.label not in changed]

    def layers_table(self) -> Table:
        """Return a table of what was not quantized; empty if everything was."""
        table = Table("not quantized", ("layer", "computes in", "FLOPs", "why"), right=frozenset({"FLOPs"}))
        for layer, reason in self.left():
            table.add(layer.label, layer.precision, format_count(layer.flops) if layer.flops else "?", reason)
        return table

    def summary(self) -> Table:
        """Return the table of the model before and after."""
        columns = ("", "before", "after")
        table = Table("quantization", columns, right=frozenset(columns[1:]))
        if self.files:
            table.add("size of the file", *(format_bytes(self.files[key]) for key in ("before", "after")))
        sizes = (sum(layer.bytes for layer in layers) for layers in (self.before, self.after))
        table.add("weights of convolutions and matmuls", *map(format_bytes, sizes))
        measured = self.measured
        table.add(f"{measured.metric} on {measured.cases:,} cases", f"{measured.before:.4g}", f"{measured.after:.4g}")
        if self.costs[0]:
            table.add(f"predicted cost of convolutions and matmuls ({self.unit})", *map(self._cost_text, self.costs))
        if self.speed is not None:
            times = (format_seconds(one.p50) for one in (self.speed.before, self.speed.after))
            table.add("measured time of a run, compiled for this machine, one thread", *times)
        table.add("convolutions and matmuls quantized", "0", f"{len(self.changed)} of {len(self.after)}")
        table.add("their share of the arithmetic", "0%", f"{self.share:.1%}")
        return table

    def _cost_text(self, cost: float) -> str:
        return format_seconds(cost) if self.unit == "seconds" else format_count(cost)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        return {
            "pipeline": self.pipeline,
            "files": self.files,
            "metric": {**encode(self.measured), "limit": self.limit, "met": self.met},
            "quantized": {"layers": len(self.changed), "of": len(self.after), "flops_share": self.share},
            "layers": [{**encode(layer), "precision": layer.precision} for layer in self.after],
            "left": [{"layer": layer.name, "op": layer.op, "reason": reason} for layer, reason in self.left()],
            "warnings": self.warnings,
            "tried": self.tried,
            "errors": results_json(self.errors),
            "predicted": {"unit": self.unit, "before": self.costs[0], "after": self.costs[1]},
            "placement": None if self.placement is None else self.placement.to_json(),
            "speed": None if self.speed is None else self.speed.to_json(),
            "sensitivity": None if self.sensitivity is None else self.sensitivity.to_json(),
            "report": self.passes.to_json(),
        }
