"""Measurements of models against the original, whose outputs are computed once if they fit into memory."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.errors import InputError, VerificationError
from graphopt.hardware import processor

if TYPE_CHECKING:
    from graphopt.data.samples import ValidationCase as Case
    from graphopt.ir import Model
    from graphopt.proof.oracle import Reference

    from .evaluation import Evaluation

Progress = Callable[[str, float], None]
_KEPT_BYTES = 1 << 28


@dataclass(frozen=True)
class Measurement:
    """A metric of the original (`before`) and of another model, and the loss as `Metric.loss` defines it."""

    metric: str
    before: float
    after: float
    loss: float
    cases: int


class Judge:
    """Measures models by the metric of an evaluation, on its validation set or else on its samples.

    ONNX Runtime runs the models; one case is in memory at a time, and outputs of the original up to a limit. Raises
    InputError if the original or data are missing.
    """

    def __init__(self, evaluation: Evaluation) -> None:
        evaluation.require("original")
        if evaluation.validation is None:
            evaluation.require("samples")
        self.evaluation = evaluation
        self.metric = evaluation.counted
        self._original: Reference | None = None
        self._kept: list[dict[str, Any]] = []
        self._room = _KEPT_BYTES

    def __enter__(self) -> Judge:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._original is not None:
            self._original.close()
            self._original = None

    @property
    def count(self) -> int:
        """The number of cases."""
        data = self.evaluation.validation or self.evaluation.samples
        assert data is not None
        return data.count

    def baseline(self, progress: Progress | None = None) -> float:
        """Return the metric of the original.

        Raises InputError if the metric fails or is not a number, and if the original's outputs are not numbers.
        """
        meter, count = self.metric.start(), 0
        for case, expected in self._cases(None):
            if progress is not None:
                progress(f"measuring the original: case {count + 1} of {self.count}", count / self.count)
            _check_finite(expected, count, self.evaluation.original)
            meter.add(expected, expected, case.expected)
            count += 1
        if count == 0:
            raise VerificationError("nothing was measured: there are no samples")
        if math.isnan(meter.value):
            raise InputError(f"the metric '{self.metric.name}' is not a number for the original model")
        return meter.value

    def measure(self, model: Model, most: int | None = None, progress: Progress | None = None) -> Measurement:
        """Measure a model over all cases, or the first ones.

        Raises OracleError if a model cannot be run, InputError as `baseline` does, and VerificationError if there is
        no case.
        """
        from graphopt.proof.oracle import Reference

        before, after, count = self.metric.start(), self.metric.start(), 0
        total = min(self.count, most or self.count)
        with Reference(model, threads=processor.cores()) as reference:
            for case, expected in self._cases(most):
                if progress is not None:
                    progress(f"measuring: case {count + 1} of {total}", count / total)
                before.add(expected, expected, case.expected)
                after.add(expected, reference.run(case.inputs), case.expected)
                count += 1
        if count == 0:
            raise VerificationError("nothing was measured: there are no samples", where=model.name)
        loss = self.metric.loss(after.value, before.value)
        return Measurement(self.metric.name, before.value, after.value, loss, count)

    def noise(self, model: Model, most: int | None = None) -> tuple[float, float]:
        """Return the squared error of a model's outputs relative to their squared size, of the worst, and the loss.

        Errors of this kind add up over layers, more or less: the search for mixed precision is based on them. The loss
        is that of the metric on the same cases.
        """
        from graphopt.proof.metrics import Metric
        from graphopt.proof.oracle import Reference

        meter, before, after = Metric.parse("sqnr").start(), self.metric.start(), self.metric.start()
        with Reference(model, threads=processor.cores()) as reference:
            for case, expected in self._cases(most):
                outputs = reference.run(case.inputs)
                meter.add(expected, outputs)
                before.add(expected, expected, case.expected)
                after.add(expected, outputs, case.expected)
        noise = math.inf if math.isnan(meter.value) else 10 ** (-meter.value / 10)
        return noise, self.metric.loss(after.value, before.value)

    def _cases(self, most: int | None) -> Iterator[tuple[Case, dict[str, Any]]]:
        """Yield cases with the original's outputs."""
        for number, case in enumerate(itertools.islice(self.evaluation.cases(), most)):
            if number < len(self._kept):
                yield case, self._kept[number]
                continue
            outputs = self._reference().run(case.inputs)
            self._room -= sum(getattr(array, "nbytes", 0) for array in outputs.values())
            if self._room > 0 and number == len(self._kept):
                self._kept.append(outputs)
            yield case, outputs

    def _reference(self) -> Reference:
        from graphopt.proof.oracle import Reference

        if self._original is None:
            assert self.evaluation.original is not None
            self._original = Reference(self.evaluation.original, threads=processor.cores())
        return self._original


def _check_finite(outputs: dict[str, Any], number: int, model: Model | None) -> None:
    for name, array in outputs.items():
        if isinstance(array, np.ndarray) and array.dtype.kind == "f" and np.isnan(array).any():
            raise InputError(
                f"the original computes NaN: output '{name}' for case {number}",
                where="" if model is None else model.name,
                remedy="remove the sample, or check how inputs are preprocessed",
            )
