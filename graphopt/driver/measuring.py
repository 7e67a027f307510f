"""Comparison of compiled code with the models it was made from, over all samples, one at a time in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from graphopt.errors import VerificationError

if TYPE_CHECKING:
    from graphopt.ir import Model
    from graphopt.proof.spread import OutputErrors
    from graphopt.proof.tolerance import Tolerance

Run = Callable[[Mapping[str, Any]], dict[str, Any]]


def measure(
    run: Run,
    original: Model,
    optimized: Model,
    feeds: Iterable[Mapping[str, Any]],
    *,
    lossy: bool,
    tolerance: Tolerance | None,
) -> OutputErrors:
    """Compare compiled code with the optimized model, and return its errors against the original one.

    Arguments:
        run: runs the code on one set of inputs.
        original, optimized: the model before and after the passes.
        feeds: the inputs.
        lossy: a lossy pass changed the model; otherwise the code must agree with the original model too. How far
            a lossy model may deviate is up to the budget.
        tolerance: of the comparison; None: by dtype, of the results or of 16-bit floats inside.

    Raises VerificationError if the results differ.
    """
    from graphopt.data.inputs import Sample, compare_with_oracle
    from graphopt.proof.numerical import usual_tolerance
    from graphopt.proof.oracle import Reference, refuses_empty
    from graphopt.proof.spread import OutputErrors

    errors = OutputErrors()
    allowed = {model: tolerance or usual_tolerance(model) for model in (original, optimized)}
    with Reference(original) as before, Reference(optimized) as after:
        for number, inputs in enumerate(feeds):
            outputs, wanted = run(inputs), before.run(inputs)
            errors.add(wanted, outputs)
            held = [] if lossy else [(original, wanted, "the model")]
            if not refuses_empty(after, inputs):
                held.append((optimized, after.run(inputs), "the optimized model"))
            for model, expected, what in held:
                sample = Sample(dict(inputs), expected)
                comparison = compare_with_oracle(model, sample, outputs, allowed[model], empty=number > 0)
                if not comparison.ok:
                    raise VerificationError(
                        f"the compiled code differs from {what}:\n{comparison}",
                        where=original.name,
                        remedy=_REMEDY,
                    )
    return errors


_REMEDY = "use graphopt bisect to find the faulty pass; if it finds none, the code generator is wrong: report the model"
