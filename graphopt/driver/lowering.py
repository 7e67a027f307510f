"""The two pipelines of a compilation: the user's, and the backend's for the target."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from graphopt.hardware.target import Target
from graphopt.ir import Model
from graphopt.rewriting.pipeline import Pipeline
from graphopt.rewriting.report import Report

from . import backend
from .deadline import Deadline
from .optimizing import DEFAULT_PIPELINE, run_passes
from .placing import measure_choices
from .tuning import Tuning


def optimize_for(
    model: Model,
    target: Target,
    passes: Pipeline | str | None = None,
    *,
    between: Callable[[Model, Pipeline], object] | None = None,
    **options: Any,
) -> tuple[Model, Report]:
    """Run the two pipelines of a compilation on `model` itself; return a copy from between them, and their report.

    The first pipeline is `passes` (None: "default"). It leaves a model that any runtime runs well; the copy is made of
    it. The second is the backend's for `target`, for example to assign layouts to activations; it is skipped if the
    first is empty. Its steps are compared with the result of the first. `between` is called before it, with a copy of
    the model and the pipeline. `options` are those of `run_passes`.
    """
    chosen = DEFAULT_PIPELINE if passes is None else passes
    pipeline = Pipeline.parse(chosen) if isinstance(chosen, str) else chosen
    lowering = Pipeline.parse(backend.load().pipeline(target) if pipeline.steps else "")
    report = run_passes(model, pipeline, target=target, **options)
    optimized = model.copy()
    if lowering.steps:
        if between is not None:
            between(model.copy(), lowering)
        report = run_passes(model, lowering, target=target, **options, earlier=report)
    return optimized, report


def measuring(
    target: Target, tuning: Tuning, progress: backend.Progress, deadline: Deadline | None = None
) -> Callable[[Model, Pipeline], object] | None:
    """Return what measures layers before they are placed, if there is a budget for it."""
    if tuning.budget is None:
        return None
    return lambda model, lowering: measure_choices(model, lowering, target, tuning, progress, deadline)
