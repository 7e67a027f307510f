"""The report of `quantize`: what became integers, what did not and why, and what it cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from graphopt.compression.judge import Measurement
from graphopt.compression.layers import Layer
from graphopt.compression.sensitivity import Sensitivity
from graphopt.rewriting.report import Report
from graphopt.util.codec import encode
from graphopt.util.tables import Table, format_bytes, format_count


@dataclass
class QuantizationReport:
    """What quantization did.

    `pipeline` is what `graphopt optimize --passes` repeats it with. `before` and `after` are the layers of the model as
    quantization found and left it. `reasons`: why layers were left, by their labels. `limit`: the largest loss allowed,
    None without a budget. `warnings`: what looks wrong about the data. `tried`: how many whole models were measured.
    """

    pipeline: str
    passes: Report
    before: list[Layer]
    after: list[Layer]
    measured: Measurement
    reasons: dict[str, str] = field(default_factory=dict)
    limit: float | None = None
    warnings: list[str] = field(default_factory=list)
    sensitivity: Sensitivity | None = None
    tried: int = 1
    files: dict[str, int] = field(default_factory=dict)

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
        """Why a layer was left as it was, as the last lossy pass that said so told it."""
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
        table.add("convolutions and matmuls quantized", "0", f"{len(self.changed)} of {len(self.after)}")
        table.add("their share of the arithmetic", "0%", f"{self.share:.1%}")
        return table

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
            "sensitivity": None if self.sensitivity is None else self.sensitivity.to_json(),
            "report": self.passes.to_json(),
        }
