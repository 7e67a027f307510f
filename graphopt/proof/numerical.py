"""Verification of numbers between passes: ONNX Runtime runs the graph after each pass that changed it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graphopt.data.inputs import verification_samples
from graphopt.errors import GraphOptError, VerificationError
from graphopt.ir import DType, Model, infer_shapes
from graphopt.rewriting.passes import Fidelity
from graphopt.rewriting.pipeline import Observer, Pipeline, Step
from graphopt.rewriting.report import StepResult

from .bisect import guilty_rewrite
from .checks import samples_check
from .locate import first_difference
from .oracle import OracleError, Reference, refuses_empty
from .standard import standard_of
from .tolerance import EXACT, Comparison, Difference, Output, Tolerance, compare


def exact_standard(model: Model) -> Tolerance:
    """Return the tolerance for EXACT: none, or two roundings of 16-bit numbers if a model computes with them.

    ONNX Runtime has few 16-bit kernels on a CPU. It computes in 32 bits and omits roundings between two such operators,
    so that its result depends on which of them are still in the graph.
    """
    for node in model.graph.all_nodes():
        for value in node.outputs:
            if value.dtype in _HALVES:
                return Tolerance.uniform(2e-3 if value.dtype is DType.FLOAT16 else 1.6e-2)
    return EXACT


def usual_tolerance(model: Model) -> Tolerance:
    """Return the tolerance by type; wider types get that of 16-bit floats if a model computes with these inside."""
    model = model.copy()
    infer_shapes(model)
    found = {value.dtype for node in model.graph.all_nodes() for value in node.outputs if value.dtype in _HALVES}
    usual = Tolerance()
    widest = max((usual.allowed("", dtype) for dtype in found if dtype is not None), default=0.0)
    return Tolerance({dtype: widest for dtype in (DType.FLOAT, DType.DOUBLE) if widest > usual.allowed("", dtype)})


_HALVES = (DType.FLOAT16, DType.BFLOAT16)


class CheckNumbers(Observer):
    """Compares what the graph computes after each pass that changed it.

    EXACT passes must return the same bits as the graph before the pass (any NaN equals any other), FLOAT passes must
    stay within `tolerance` of it. LOSSY passes must stay within `tolerance` of the original model, unless the run has a
    budget, which `CheckBudget` enforces. Each step's `error` becomes the one measured against the original model.

    Arguments:
        tolerance: see above; None: by dtype, and whether the model rounds to integers (`standard_of`).
        inputs: the user's own inputs; missing ones are generated.
        shapes: of generated inputs.
        samples: complete sets of inputs to use instead, all of which are kept in memory.

    Raises InputError if no inputs can be generated, OracleError if ONNX Runtime cannot run the original model, and
    VerificationError, which names the pass, the step, the worst output and the user's node, if a pass fails.
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
        self._is_given = tolerance is not None
        self.seed = seed
        self.inputs: Mapping[str, Any] = {}
        """The inputs for reproducers: of the sample that failed, or of the first."""
        self._original: list[dict[str, Output]] = []
        self._outputs: list[dict[str, Output]] = []

    def begin(self, model: Model, pipeline: Pipeline) -> None:
        if not self._is_given:
            self.tolerance = standard_of(model)
        with Reference(model) as reference:
            if not self.samples:
                self.samples = [
                    sample.inputs
                    for sample in verification_samples(
                        model, seed=self.seed, shapes=self.shapes, given=self.given, reference=reference
                    )
                ]
            # An earlier run of passes may have left operators that ONNX Runtime does not run without elements.
            self.samples = self.samples[:1] + [s for s in self.samples[1:] if not refuses_empty(reference, s)]
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
        """Return the outputs that a pass must preserve, and the tolerance (None: a budget decides)."""
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
                parts.append(f"that output is produced by {value.producer.label}")
        return VerificationError(
            "; ".join(parts),
            where=f"{model.name}: {step.label}",
            remedy="this is a bug in the pass, or its fidelity is wrong; do not run it, or report it",
        )

    def _guilty_node(self, step: Step, model: Model) -> str:
        """Return the faulty rewrite, by bisection over the rewrites of this pass, or the first value that differs."""
        assert step.before is not None
        expected, tolerance = self._standard(step)
        tolerance = tolerance or self.tolerance
        try:
            rewrite, _ = guilty_rewrite(step, samples_check(self.samples, expected, tolerance))
            if rewrite is not None:
                return f"the faulty one is {rewrite}"
            return first_difference(step.before, model, self.inputs, tolerance)
        except GraphOptError:
            return ""  # the failure itself must be reported, even if it cannot be located


def _drift(original: dict[str, Output], outputs: dict[str, Output], comparison: Comparison) -> float:
    """Return the difference between the outputs and those of the original model."""
    return compare(original, outputs, empty=True).error if outputs.keys() == original.keys() else comparison.error
