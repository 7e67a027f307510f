"""The report of a pipeline: one `StepResult` per pass, collected in a `Report`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from graphopt.profiling.code import Code
from graphopt.util.codec import decode, encode, stored_as
from graphopt.util.tables import Table, format_seconds

from .passes import Fidelity


@dataclass
class StepResult:
    """The result of one run of one pass.

    `path` is the position of the step in the pipeline, `counts` its statistics, `misses` how often the pass declined
    for which reason, and `error` the largest measured error relative to each output's largest value, or None if numbers
    were not verified.
    """

    name: str = field(metadata=stored_as("pass"))
    options: Mapping[str, Any]
    fidelity: Fidelity
    path: str = ""
    seconds: float = 0.0
    changed: bool = False
    nodes_before: int = 0
    nodes_after: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    misses: dict[str, int] = field(default_factory=dict)
    error: float | None = None
    loss: float | None = None
    """How much of the metric the model had lost after this lossy step, if there is a budget."""


@dataclass
class Measured:
    """The measured errors of the compiled code: the number of samples, and the figures of each output."""

    samples: int
    outputs: dict[str, dict[str, float]]


@dataclass
class Report:
    """The report of a complete pipeline, in the order in which the steps ran, and of a compilation that followed."""

    pipeline: str = ""
    steps: list[StepResult] = field(default_factory=list)
    seconds: float = 0.0
    measured: Measured | None = None
    code: Code | None = None

    @property
    def fidelity(self) -> Fidelity:
        """The fidelity of the least exact step that changed anything, which is that of the result.

        The promise for any model is `Pipeline.fidelity`.
        """
        return max((step.fidelity for step in self.steps if step.changed), default=Fidelity.EXACT)

    @property
    def changed(self) -> bool:
        return any(step.changed for step in self.steps)

    @property
    def error(self) -> float | None:
        """The largest error that numerical verification measured, or None if it did not run."""
        return max((step.error for step in self.steps if step.error is not None), default=None)

    @property
    def loss(self) -> float | None:
        """How much of the metric lossy passes lost in total, or None if it was not measured."""
        return next((step.loss for step in reversed(self.steps) if step.loss is not None), None)

    @property
    def counts(self) -> dict[str, int]:
        """The statistics of all steps, added up under `pass/statistic`."""
        total: Counter[str] = Counter()
        for step in self.steps:
            total.update({f"{step.name}/{name}": n for name, n in step.counts.items()})
        return dict(total)

    @property
    def misses(self) -> dict[tuple[str, str], int]:
        """The number of near misses by pass and reason, from the last run of each pass.

        Earlier runs of a pass in a fixpoint would count the same near miss again.
        """
        last = {step.name: step for step in self.steps}
        return {(step.name, reason): n for step in last.values() for reason, n in step.misses.items()}

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON types, including what is computed from the steps."""
        return {"fidelity": encode(self.fidelity), "error": self.error, "loss": self.loss, **encode(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Report:
        """Return the report that `to_json` wrote. Raises DecodeError for anything else."""
        return decode(cls, {name: value for name, value in data.items() if name not in ("fidelity", "error", "loss")})

    def table(self, *, all_steps: bool = False) -> Table:
        """Return a table with one row per pass, its runs added up; unchanged passes only with `all_steps`."""
        table = Table(
            "passes",
            ("pass", "fidelity", "runs", "nodes", "time", "what it did"),
            right=frozenset({"runs", "nodes", "time"}),
        )
        for name in dict.fromkeys(step.name for step in self.steps):
            runs = [step for step in self.steps if step.name == name]
            if not all_steps and not any(step.changed for step in runs):
                continue
            nodes = sum(step.nodes_after - step.nodes_before for step in runs)
            counts: Counter[str] = Counter()
            for step in runs:
                counts.update(step.counts)
            table.add(
                name,
                runs[0].fidelity.name.lower(),
                len(runs),
                f"{nodes:+,}" if nodes else "0",
                format_seconds(sum(step.seconds for step in runs)),
                ", ".join(f"{n:,} {what}" for what, n in counts.items() if n),
            )
        return table

    def misses_table(self) -> Table:
        """Return a table of near misses and their reasons, the most frequent first."""
        table = Table("declined", ("pass", "times", "reason"), right=frozenset({"times"}))
        for (name, reason), times in sorted(self.misses.items(), key=lambda item: -item[1]):
            table.add(name, times, reason)
        return table

    def __str__(self) -> str:
        tables = [self.table(), self.misses_table()]
        return "\n\n".join(table.to_text() for table in tables if table.rows)
