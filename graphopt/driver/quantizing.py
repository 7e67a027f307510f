"""`quantize`: from a float model and samples to a quantized model whose loss is measured, and held to a budget."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt import io
from graphopt.compression.store import StatisticsStore, load_statistics
from graphopt.errors import GraphOptError, InputError
from graphopt.hardware.target import Target
from graphopt.ir import Model
from graphopt.proof.metrics import LABELS, Metric
from graphopt.rewriting.shapes import fix_shapes

from .optimizing import evaluate_on
from .placing import Placing, check_cost
from .quantization_job import Job, Quantized
from .quantization_plan import SEARCHABLE, Plan
from .speed import measure_speed
from .tuning import Tuning

if TYPE_CHECKING:
    import onnx

    from graphopt.compression.budget import Budget
    from graphopt.compression.evaluation import Evaluation
    from graphopt.data.images import Preprocess

    from .backend import Progress

__all__ = ["Quantized", "quantize"]


def quantize(
    model: Model | onnx.ModelProto | bytes | str | os.PathLike[str],
    samples: Any = None,
    *,
    passes: str = "quantize",
    options: Mapping[str, Any] | None = None,
    inputs: Mapping[str, Sequence[int]] | None = None,
    validation: Any = None,
    metric: Metric | str | None = None,
    budget: Budget | str | float | None = None,
    preprocess: Preprocess | str | None = None,
    statistics: Sequence[str | os.PathLike[str]] = (),
    sensitivity: bool = False,
    cost: str | None = None,
    target: Target | str | os.PathLike[str] | None = None,
    tune: Tuning | str | int | None = None,
    speed: bool = False,
    work_in: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Quantized:
    """Quantize a model, and measure what it lost.

    If the loss exceeds the budget, and the pipeline has `quantize-static`, the layers that contribute most to the error
    for what they save stay floats. The result that comes nearest to the budget is returned if none meets it:
    `report.met` says so.

    Arguments:
        model: is not changed.
        samples: for calibration, see `evaluate_on`; may be omitted if no pass needs them.
        passes: a pipeline with a lossy pass.
        options: replace options of the first pass that quantizes.
        inputs: shapes to fix, by input name.
        validation, metric, budget, preprocess: see `evaluate_on`. With labels, the metric is the accuracy by default.
        statistics: files that `graphopt quantize --save-statistics` wrote, used instead of running the samples again.
        sensitivity: measure the error of each layer, even if the budget does not need it.
        cost: what the search saves, and what the report predicts: one of `graphopt.compression.costs.COSTS`, or
            "latency" with a target. By default "latency" if there is a target, else "flops".
        target: layers that are not faster as integers on it stay floats: by measurements of earlier runs, or else by a
            closed form.
        tune: measure layers of which there is no record first, for a time ("60s", "5m") or a number of measurements.
        speed: compile the model before and after, for the target or else for this machine, and time both.
        work_in: a folder that keeps the state of the search, and from which it goes on.
        progress: is called with the current activity and the completed share (0 to 1).

    Raises InputError, ModelError, PipelineError and PassError for invalid arguments, also if there is nothing to
    quantize, and OracleError if ONNX Runtime cannot run the model.
    """
    placing = Placing.of(target, tune)
    cost = check_cost(cost, placing)
    plan = Plan.parse(passes, options or {})
    if placing is not None and not plan.searchable:
        raise InputError(f"only {SEARCHABLE} places layers, and '{passes}' lacks it", remedy="omit the target")
    original = io.load(model)
    fix_shapes(original, inputs or {})
    evaluation = _evaluation(original, samples, validation, metric, budget, preprocess)
    store = StatisticsStore(load_statistics([Path(path) for path in statistics]), keep_all=True)
    tell = progress or (lambda what, done: None)
    job = Job(plan, dataclasses.replace(evaluation, statistics=store), cost, tell, placing)
    result = job.run(original, sensitivity, None if work_in is None else Path(work_in))
    if speed:
        feed = next(iter(evaluation.cases())).inputs
        try:
            place = "host" if placing is None or not placing.target.runs_here() else placing.target
            result.report.speed = measure_speed(original, result.model, feed, job.part(0.9, 1.0), place)
        except GraphOptError as error:  # the result is good, and may have taken hours
            result.report.warnings.append(f"the speed could not be measured: {error}")
    return result


def _evaluation(
    original: Model, samples: Any, validation: Any, metric: Any, budget: Any, preprocess: Any
) -> Evaluation:
    if samples is None and validation is None:
        raise InputError(
            "quantization needs data, at least to measure what is lost", remedy="add --calibration or --validate"
        )
    evaluation = evaluate_on(original, samples, validation, metric, budget, preprocess)
    if metric is None and evaluation.validation is not None:
        case = next(iter(evaluation.validation))
        if case.expected is not None and LABELS in case.expected:
            return dataclasses.replace(evaluation, metric=Metric.parse("accuracy"), original=original)
    return dataclasses.replace(evaluation, original=original)
