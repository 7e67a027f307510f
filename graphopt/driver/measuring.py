"""Holding compiled code against what it was made from, over all samples, in the memory of one."""

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
    """The errors of compiled code against the original model, after holding it against the optimized one.

    `run` runs the code on each of `feeds`. It must agree with the optimized model within the tolerance, and with the
    original too unless a lossy pass changed the model: how far that may go is the budget's affair. Raises
    VerificationError where the code differs.
    """
    from graphopt.data.inputs import Sample, compare_with_oracle
    from graphopt.proof.oracle import Reference, refuses_empty
    from graphopt.proof.spread import OutputErrors

    errors = OutputErrors()
    with Reference(original) as before, Reference(optimized) as after:
        for number, inputs in enumerate(feeds):
            outputs, wanted = run(inputs), before.run(inputs)
            errors.add(wanted, outputs)
            held = [] if lossy else [(original, wanted, "the model")]
            if not refuses_empty(after, inputs):
                held.append((optimized, after.run(inputs), "the optimized model"))
            for model, expected, what in held:
                sample = Sample(dict(inputs), expected)
                comparison = compare_with_oracle(model, sample, outputs, tolerance, empty=number > 0)
                if not comparison.ok:
                    raise VerificationError(
                        f"the compiled code differs from {what}:\n{comparison}",
                        where=original.name,
                        remedy=_REMEDY,
                    )
    return errors


_REMEDY = "graphopt bisect finds the pass; if it finds none, report the model: the code generator is wrong"
