"""How the result of a lossy pass is judged: on which samples, by which metric, within which budget."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphopt.errors import InputError, VerificationError

if TYPE_CHECKING:
    from graphopt.data.samples import Samples, Validation
    from graphopt.data.samples import ValidationCase as Case
    from graphopt.ir import Model
    from graphopt.proof.metrics import Metric

    from .budget import Budget


@dataclass(frozen=True)
class Evaluation:
    """What lossy passes are given beside the model; each part is None where the user gave none.

    `samples`: typical inputs, without answers. `validation`: inputs with the answers wanted. `metric`: what "as good as
    before" means. `budget`: how much of the metric may be lost. `original`: the model as it came, which what is lost is
    counted from. Passes that cannot do without one of them call `require`.
    """

    samples: Samples | None = None
    validation: Validation | None = None
    metric: Metric | None = None
    budget: Budget | None = None
    original: Model | None = None

    def __post_init__(self) -> None:
        if self.metric is not None and self.metric.needs_labels and self.validation is None:
            raise InputError(
                f"the metric '{self.metric.name}' compares with the right answers, and there are none",
                remedy="give a validation set (--validate FILE.npz, with an array 'labels')",
            )
        if self.budget is not None and self.samples is None and self.validation is None:
            raise InputError(
                "a budget needs data to measure what is lost", remedy="give --samples or --validate with --max-drop"
            )

    def require(self, *names: str) -> None:
        """Raise InputError unless each part of these names was given."""
        for name in names:
            if getattr(self, name) is None:
                option = {"validation": "--validate", "budget": "--max-drop"}.get(name, f"--{name}")
                raise InputError(f"this pass needs {name}", remedy=f"give {option} (in Python, {name}=...)")

    def options(self) -> list[str]:
        """The options of the command line that say the same, as far as they can: data that came from files."""
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
        """What is measured on: the validation set, or else the samples, one case at a time."""
        from graphopt.data.samples import ValidationCase

        if self.validation is not None:
            yield from self.validation
        elif self.samples is not None:
            for inputs in self.samples:
                yield ValidationCase(inputs)

    def loss(self, model: Model) -> float:
        """How much of the metric `model` loses against the original: 0 is as good, 0.01 one percent worse.

        Both are run by ONNX Runtime over all cases, of which one is in memory at a time. Raises InputError where data
        or the original are missing, OracleError where a model cannot be run, and VerificationError if there was no
        case to measure.
        """
        from graphopt.proof.oracle import Reference

        self.require("original")
        assert self.original is not None
        if self.samples is None and self.validation is None:
            self.require("samples")
        metric = self.counted
        before, after = metric.start(), metric.start()
        count = 0
        with Reference(self.original) as left, Reference(model) as right:
            for case in self.cases():
                expected = left.run(case.inputs)
                before.add(expected, expected, case.expected)
                after.add(expected, right.run(case.inputs), case.expected)
                count += 1
        if count == 0:
            raise VerificationError("nothing was measured: there are no samples", where=model.name)
        return metric.loss(after.value, before.value)
