"""A model through a pipeline with the checks that belong to it: `optimize`, and what `compile` does first."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from graphopt import io
from graphopt.rewriting.pipeline import Observer, PassManager, Pipeline
from graphopt.rewriting.shapes import fix_shapes

if TYPE_CHECKING:
    import onnx

    from graphopt.hardware.target import Target
    from graphopt.ir import Model
    from graphopt.proof.tolerance import Tolerance
    from graphopt.rewriting.report import Report

DEFAULT_PIPELINE = "default"


def optimize(
    model: Model | onnx.ModelProto | bytes | str | os.PathLike[str],
    passes: Pipeline | str = DEFAULT_PIPELINE,
    *,
    inputs: Mapping[str, Sequence[int]] | None = None,
    target: Target | str | os.PathLike[str] | None = None,
    verify: bool | Tolerance = False,
    data: Mapping[str, Any] | None = None,
    seed: int = 0,
    observers: Sequence[Observer] = (),
    reproducer: str | os.PathLike[str] | None = None,
) -> tuple[Model, Report]:
    """Run `passes` over a copy of `model`; returns the new model and what each pass did.

    `model`: a Model, a ModelProto, the bytes of one, or a path. `inputs`: shapes to fix, by input name. The other
    arguments are those of `run_passes`. Raises ModelError, InputError, PipelineError, TargetError, PassError, and
    VerificationError when a check fails.
    """
    copy = io.load(model)
    fix_shapes(copy, inputs or {})
    report = run_passes(
        copy,
        passes,
        target=target,
        verify=verify,
        data=data,
        seed=seed,
        observers=observers,
        reproducer=reproducer,
    )
    return copy, report


def run_passes(
    model: Model,
    passes: Pipeline | str,
    *,
    target: Target | str | os.PathLike[str] | None = None,
    verify: bool | Tolerance = False,
    data: Mapping[str, Any] | None = None,
    seed: int = 0,
    observers: Sequence[Observer] = (),
    reproducer: str | os.PathLike[str] | None = None,
) -> Report:
    """Run `passes` over `model` itself, and report what each did.

    `passes`: a pipeline or its text. `target`: what passes may specialize for. The structure is checked after each
    pass that changed something. `verify`: the numbers are too, within a tolerance, by ONNX Runtime, on `data` (arrays
    by input name; those missing are generated from `seed`). `reproducer`: a folder in which a failure leaves what is
    needed to repeat it.
    """
    from graphopt.hardware.target import load as load_target
    from graphopt.proof.observers import CheckNumbers, CheckStructure, CrashReproducer
    from graphopt.proof.tolerance import Tolerance

    pipeline = Pipeline.parse(passes) if isinstance(passes, str) else passes
    checks: list[Observer] = [CheckStructure()]
    numbers = None
    if verify is not False:
        tolerance = verify if isinstance(verify, Tolerance) else None
        numbers = CheckNumbers(data, seed=seed, tolerance=tolerance)
        checks.append(numbers)
    if reproducer is not None:
        checks.append(CrashReproducer(os.fspath(reproducer), numbers))
    return PassManager(pipeline, [*checks, *observers], load_target(target) if target else None).run(model)
