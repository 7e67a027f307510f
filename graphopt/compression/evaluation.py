"""Evaluation of the result of a lossy pass: on which samples, by which metric, within which budget."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from graphopt.errors import InputError

from .store import StatisticsStore

if TYPE_CHECKING:
    from graphopt.data.samples import Samples, Validation
    from graphopt.data.samples import ValidationCase as Case
    from graphopt.ir import Model
    from graphopt.proof.metrics import Metric

    from .budget import Budget


@dataclass(frozen=True)
class Evaluation:
    """Data and limits for lossy passes; each part is None if the user did not provide it.

    `samples`: typical inputs, without expected results. `validation`: inputs with expected results. `metric`: the
    meaning of "as good as before". `budget`: how much of the metric may be lost. `original`: the model before any pass,
    relative to which the loss is measured. Passes that need one of them call `require`.
    """

    samples: Samples | None = None
    validation: Validation | None = None
    metric: Metric | None = None
    budget: Budget | None = None
    original: Model | None = None
    statistics: StatisticsStore = field(default_factory=StatisticsStore, compare=False)
    """Statistics over the samples that passes share (`PassContext.statistics`)."""

    def __post_init__(self) -> None:
        if self.metric is not None and self.metric.needs_labels and self.validation is None:
            raise InputError(
                f"the metric '{self.metric.name}' needs expected results, but there are none",
                remedy="provide a validation set (--validate FILE.npz, with an array 'labels')",
            )
        if self.budget is not None and self.samples is None and self.validation is None:
            raise InputError(
                "a budget needs data to measure the loss", remedy="add --samples or --validate to --max-drop"
            )

    def require(self, *names: str) -> None:
        """Raise InputError unless all parts with these names were provided."""
        for name in names:
            if getattr(self, name) is None:
                option = {"validation": "--validate", "budget": "--max-drop"}.get(name, f"--{name}")
                raise InputError(f"this pass needs {name}", remedy=f"give {option} (in Python, {name}=...)")

    def options(self) -> list[str]:
        """Return the equivalent options of the command line, as far as they exist: for data that came from files."""
        words: list[str] = []
        for option, data in (("--samples", self.samples), ("--validate", self.validation)):
            if data is not None and data.path is not None:
                words += [option, str(data.path.resolve())]
        if self.metric is not None:
            words += ["--metric", self.metric.name]
        if words and self.budget is not None:
            words += ["--max-drop", str(self.budget)]
        return words

    @property
    def counted(self) -> Metric:
        """The metric, or the mean error against the original's outputs if none was chosen."""
        from graphopt.proof.metrics import Metric

        return self.metric or Metric.parse("error-mean")

    def cases(self) -> Iterator[Case]:
        """Yield the validation set, or else the samples, one case at a time."""
        from graphopt.data.samples import ValidationCase

        if self.validation is not None:
            yield from self.validation
        elif self.samples is not None:
            for inputs in self.samples:
                yield ValidationCase(inputs)

    def loss(self, model: Model) -> float:
        """Return how much of the metric `model` loses against the original: 0 is as good, 0.01 is one percent worse.

        ONNX Runtime runs both over all cases, one of which is in memory at a time. Raises InputError if data or the
        original are missing, OracleError if a model cannot be run, and VerificationError if there is no case.
        """
        from .judge import Judge

        with Judge(self) as judge:
            return judge.measure(model).loss
