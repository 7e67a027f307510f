"""Checking numbers between passes: the graph is run by ONNX Runtime after each pass that changed it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graphopt.data.inputs import verification_samples
from graphopt.errors import GraphOptError, VerificationError
from graphopt.ir import DType, Model
from graphopt.rewriting.passes import Fidelity
from graphopt.rewriting.pipeline import Observer, Pipeline, Step
from graphopt.rewriting.report import StepResult

from .bisect import guilty_rewrite
from .checks import samples_check
from .locate import first_difference
from .oracle import OracleError, Reference, refuses_empty
from .tolerance import EXACT, Comparison, Difference, Output, Tolerance, compare


def exact_standard(model: Model) -> Tolerance:
    """What EXACT can be held to: the same bits, or two roundings of 16-bit numbers where a model computes with them.

    ONNX Runtime has few 16-bit kernels on a CPU. It computes in 32 bits and leaves out roundings between two such
    operators, so that its result depends on which of them are still in the graph.
    """
    for node in model.graph.all_nodes():
        for value in node.outputs:
            if value.dtype in _HALVES:
                return Tolerance.uniform(2e-3 if value.dtype is DType.FLOAT16 else 1.6e-2)
    return EXACT


_HALVES = (DType.FLOAT16, DType.BFLOAT16)


class CheckNumbers(Observer):
    """Compares what the graph computes after each pass that changed it.

    EXACT passes must give the same bits as the graph before the pass (any NaN equals any other), FLOAT passes must stay
    within `tolerance` of it. LOSSY passes must stay within `tolerance` of the original model, unless the run has a
    budget, which `CheckBudget` holds them to. `inputs` are the user's own (those missing are generated), `shapes` fixes
    the shapes of generated ones; `samples` are complete feeds to use instead, all of which are kept in memory. Each
    step's `error` becomes the one measured against the original model.

    Raises InputError if no inputs can be made, OracleError if ONNX Runtime cannot run the model as it
    came, and VerificationError, which names the pass, the step, the worst output and the user's node, when
    a pass fails.
    """

    needs_before = True

    def __init__(
        self,
        inputs: Mapping[str, Any] | None = None,
        *,
        shapes: Mapping[str, Sequence[int]] | None = None,
        samples: Sequence[Mapping[str, Any]] = (),
        tolerance: Tolerance | None = None,
        seed: int = 0,
    ) -> None:
        self.given = inputs
        self.shapes = shapes
        self.samples = list(samples)
        self.tolerance = tolerance or Tolerance()
        self.seed = seed
        self.inputs: Mapping[str, Any] = {}
        """Those that reproducers keep: of the sample that failed, or of the first."""
        self._original: list[dict[str, Output]] = []
        self._outputs: list[dict[str, Output]] = []

    def begin(self, model: Model, pipeline: Pipeline) -> None:
        with Reference(model) as reference:
            if not self.samples:
                self.samples = [
                    sample.inputs
                    for sample in verification_samples(
                        model, seed=self.seed, shapes=self.shapes, given=self.given, reference=reference
                    )
                ]
            self._original = self._outputs = [reference.run(inputs) for inputs in self.samples]
        compare(self._original[0], self._original[0])  # raises if these inputs leave nothing to compare
        self.inputs = self.samples[0]

    def after(self, step: Step, model: Model, result: StepResult) -> None:
        if not result.changed:
            return
        expected, tolerance = self._standard(step)
        outputs: list[dict[str, Output]] = []
        drift = 0.0
        try:
            with Reference(model) as reference:
                for inputs, wanted, original in zip(self.samples, expected, self._original, strict=True):
                    self.inputs = inputs
                    if outputs and refuses_empty(reference, inputs):
                        outputs.append(wanted)
                        continue
                    outputs.append(reference.run(inputs))
                    if tolerance is None:
                        continue
                    comparison = compare(wanted, outputs[-1], tolerance, empty=len(outputs) > 1)
                    if not comparison.ok:
                        raise self._failure(step, model, str(comparison.worst), comparison.worst)
                    drift = max(drift, _drift(original, outputs[-1], comparison))
        except OracleError as error:
            raise self._failure(step, model, error.message, None) from error
        self.inputs = self.samples[0]
        result.error = drift if tolerance is not None else result.error
        self._outputs = outputs

    def _standard(self, step: Step) -> tuple[list[dict[str, Output]], Tolerance | None]:
        """What a pass is held to: the outputs that it must keep, and how nearly (None: a budget decides)."""
        assert step.before is not None
        fidelity = step.pass_.fidelity
        if fidelity is Fidelity.LOSSY:
            return self._original, self.tolerance if step.evaluation.budget is None else None
        return self._outputs, exact_standard(step.before) if fidelity is Fidelity.EXACT else self.tolerance

    def _failure(self, step: Step, model: Model, complaint: str, worst: Difference | None) -> VerificationError:
        parts = [f"{step.pass_.name} changed what the model computes: {complaint}"]
        node = self._guilty_node(step, model)
        if node:
            parts.append(node)
        elif worst is not None:
            value = model.graph.find(worst.name.split("[")[0])
            if value is not None and value.producer is not None:
                parts.append(f"that output is made by {value.producer.label}")
        return VerificationError(
            "; ".join(parts),
            where=f"{model.name}: {step.label}",
            remedy="this is a bug of the pass, or it promises more fidelity than it has; leave it out, or report it",
        )

    def _guilty_node(self, step: Step, model: Model) -> str:
        """The rewrite that did it, by bisection over the rewrites of this one pass, or the first value that differs."""
        assert step.before is not None
        expected, tolerance = self._standard(step)
        tolerance = tolerance or self.tolerance
        try:
            rewrite, _ = guilty_rewrite(step, samples_check(self.samples, expected, tolerance))
            if rewrite is not None:
                return f"the guilty one is {rewrite}"
            return first_difference(step.before, model, self.inputs, tolerance)
        except GraphOptError:
            return ""  # the failure itself is what must be told; its place could not be found


def _drift(original: dict[str, Output], outputs: dict[str, Output], comparison: Comparison) -> float:
    """How far the outputs are from those of the original model."""
    return compare(original, outputs, empty=True).error if outputs.keys() == original.keys() else comparison.error
