"""Running a pipeline on a model with all checks: `optimize`, and the first half of `compile`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from graphopt import io
from graphopt.compression.budget import Budget
from graphopt.compression.evaluation import Evaluation
from graphopt.rewriting.pipeline import Observer, PassManager, Pipeline
from graphopt.rewriting.shapes import fix_shapes

from . import backend
from .tuning import Tuning

if TYPE_CHECKING:
    import onnx

    from graphopt.compression.latency import Latencies
    from graphopt.data.images import Preprocess
    from graphopt.hardware.target import Target
    from graphopt.ir import Model
    from graphopt.proof.metrics import Metric
    from graphopt.proof.tolerance import Tolerance
    from graphopt.rewriting.report import Report

DEFAULT_PIPELINE = "default"
_CHECKED_SAMPLES = 4
"""The number of samples on which each pass is checked; the final result is measured on all of them."""


def optimize(
    model: Model | onnx.ModelProto | bytes | str | os.PathLike[str],
    passes: Pipeline | str = DEFAULT_PIPELINE,
    *,
    inputs: Mapping[str, Sequence[int]] | None = None,
    target: Target | str | os.PathLike[str] | None = None,
    verify: bool | Tolerance = False,
    data: Mapping[str, Any] | None = None,
    samples: Any = None,
    validation: Any = None,
    metric: Metric | str | None = None,
    budget: Budget | str | float | None = None,
    preprocess: Preprocess | str | None = None,
    seed: int = 0,
    observers: Sequence[Observer] = (),
    reproducer: str | os.PathLike[str] | None = None,
) -> tuple[Model, Report]:
    """Run `passes` over a copy of `model`; return the new model and a report of what each pass did.

    Arguments:
        model: a Model, a ModelProto, the bytes of one, or a path.
        passes: a pipeline or its text.
        inputs: shapes to fix, by input name.
        target: what passes may specialize for.
        verify: check the numbers after each pass too, in ONNX Runtime, within a tolerance.
        data: arrays by input name to verify with; missing ones are generated from `seed`.
        samples, validation, metric, budget, preprocess: data and limits for lossy passes, see `evaluate_on`.
        seed: for generated inputs.
        observers: are notified of every pass.
        reproducer: a folder for the model and the command that repeat the failure of a pass.

    Raises ModelError, InputError, PipelineError and TargetError for invalid arguments, PassError if a pass fails, and
    VerificationError if a check fails.
    """
    copy = io.load(model)
    fix_shapes(copy, inputs or {})
    report = run_passes(
        copy,
        passes,
        target=target,
        verify=verify,
        data=data,
        evaluation=evaluate_on(copy, samples, validation, metric, budget, preprocess),
        seed=seed,
        observers=observers,
        reproducer=reproducer,
    )
    return copy, report


def evaluate_on(
    model: Model,
    samples: Any = None,
    validation: Any = None,
    metric: Metric | str | None = None,
    budget: Budget | str | float | None = None,
    preprocess: Preprocess | str | None = None,
) -> Evaluation:
    """Return the data and limits for lossy passes; everything is checked before any long computation starts.

    Arguments:
        model: the model before any pass.
        samples: the path of an .npz or .npy file or of a folder of such files or of images, one feed or an iterable of
            feeds (dictionaries of arrays by input name), or a function that returns such an iterable.
        validation: the same, with the expected results among the arrays (by output name, or `labels`).
        metric: a name in `graphopt.proof.metrics.METRICS`, or `module:function`.
        budget: how much of the metric may be lost ("1%", 0.01).
        preprocess: how images become inputs.

    Raises InputError for data that cannot be read, does not fit the model, or cannot be judged by the metric.
    """
    from graphopt.data.images import check_rule, is_pictures
    from graphopt.data.samples import open_samples, open_validation
    from graphopt.proof.metrics import Metric

    check_rule(preprocess, (samples, validation))
    if samples is None and validation is None and metric is None and budget is None:
        return Evaluation()
    rules = [preprocess if is_pictures(source) else None for source in (samples, validation)]
    opened = None if samples is None else open_samples(samples, model, rules[0])
    checked = None if validation is None else open_validation(validation, model, rules[1])
    chosen = Metric.parse(metric) if isinstance(metric, str) else metric
    if chosen is None and budget is not None:
        chosen = Metric.parse("error-mean")
    if isinstance(budget, str | float | int):
        budget = Budget.parse(budget) if isinstance(budget, str) else Budget(float(budget))
    return Evaluation(opened, checked, chosen, budget, model.copy())


def verification_feeds(
    model: Model, evaluation: Evaluation, data: Mapping[str, Any] | None, seed: int
) -> list[Mapping[str, Any]]:
    """Return the inputs to verify passes on: the first samples, or `data` completed with generated arrays."""
    from graphopt.data.inputs import verification_samples

    if data is None and evaluation.samples is not None:
        return list(evaluation.samples.first(_CHECKED_SAMPLES))
    return [sample.inputs for sample in verification_samples(model, seed=seed, given=data)]


def run_passes(
    model: Model,
    passes: Pipeline | str,
    *,
    target: Target | str | os.PathLike[str] | None = None,
    verify: bool | Tolerance = False,
    data: Mapping[str, Any] | None = None,
    evaluation: Evaluation | None = None,
    feeds: Sequence[Mapping[str, Any]] = (),
    seed: int = 0,
    observers: Sequence[Observer] = (),
    reproducer: str | os.PathLike[str] | None = None,
    earlier: Report | None = None,
    latencies: Latencies | None = None,
) -> Report:
    """Run `passes` over `model` itself, and report what each did.

    The structure is checked after each pass that changed something.

    Arguments:
        model: is changed.
        passes: a pipeline or its text.
        target: what passes may specialize for.
        verify: check the numbers too, within a tolerance, in ONNX Runtime: on `feeds`, or else on the first samples of
            `evaluation`, or on `data` (arrays by input name; missing ones are generated from `seed`).
        data, feeds, seed: see `verify`.
        evaluation: data and limits for lossy passes; if it has a budget, the loss is measured after each of them.
        observers: are notified of every pass.
        reproducer: a folder for what is needed to repeat a failure.
        earlier: the report of a pipeline that ran before, which the result continues.
        latencies: the times of layers on `target`; by default what the backend has records of.

    Raises PipelineError, TargetError, InputError, PassError and VerificationError as `optimize` does.
    """
    from graphopt.hardware.target import load as load_target
    from graphopt.proof.observers import CheckBudget, CheckNumbers, CheckStructure, CrashReproducer
    from graphopt.proof.tolerance import Tolerance

    pipeline = Pipeline.parse(passes) if isinstance(passes, str) else passes
    evaluation = evaluation or Evaluation()
    checks: list[Observer] = [CheckStructure()]
    numbers = None
    if verify is not False:
        tolerance = verify if isinstance(verify, Tolerance) else None
        feeds = feeds or verification_feeds(model, evaluation, data, seed)
        numbers = CheckNumbers(samples=feeds, tolerance=tolerance)
        checks.append(numbers)
    if evaluation.budget is not None:
        checks.append(CheckBudget(evaluation))
    if reproducer is not None:
        checks.append(CrashReproducer(os.fspath(reproducer), numbers))
    made_for = load_target(target) if target else None
    if latencies is None and made_for is not None:
        latencies = backend.load().latencies(made_for, Tuning())
    manager = PassManager(pipeline, [*checks, *observers], made_for, evaluation, latencies)
    return manager.run(model, earlier)
