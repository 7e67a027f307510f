"""`compile`: load, optimize, build in a child process, measure, and return an artifact."""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt import io
from graphopt.errors import CompileError
from graphopt.hardware.target import Target
from graphopt.hardware.target import load as load_target
from graphopt.profiling.code import Code
from graphopt.rewriting.passes import Fidelity
from graphopt.rewriting.pipeline import Observer
from graphopt.rewriting.report import Measured, Report
from graphopt.rewriting.shapes import fix_shapes
from graphopt.runtime.artifact import Artifact
from graphopt.runtime.manifest import GRAPH, MODEL, REPORT, Manifest
from graphopt.runtime.writing import write_manifest
from graphopt.util.codec import encode
from graphopt.util.scratch import scratch

from . import backend
from . import worker as child
from .deadline import Deadline
from .lowering import measuring, optimize_for
from .measuring import measure
from .optimizing import evaluate_on, verification_feeds
from .stages import Stages
from .tuning import Tuned, Tuning

if TYPE_CHECKING:
    import onnx

    from graphopt.compression.budget import Budget
    from graphopt.data.images import Preprocess
    from graphopt.ir import Model
    from graphopt.proof.metrics import Metric
    from graphopt.proof.tolerance import Tolerance
    from graphopt.rewriting.pipeline import Pipeline


def compile(
    model: Model | onnx.ModelProto | bytes | str | os.PathLike[str],
    target: Target | str | os.PathLike[str] = "host",
    passes: Pipeline | str | None = None,
    *,
    inputs: Mapping[str, Sequence[int]] | None = None,
    verify: bool | Tolerance = False,
    data: Mapping[str, Any] | None = None,
    samples: Any = None,
    validation: Any = None,
    metric: Metric | str | None = None,
    budget: Budget | str | float | None = None,
    preprocess: Preprocess | str | None = None,
    seed: int = 0,
    tune: Tuning | str | int | None = None,
    bundle_runtime: bool = False,
    time_limit: float | None = None,
    keep_model: bool = False,
    compact: bool = False,
    observers: Sequence[Observer] = (),
    reproducer: str | os.PathLike[str] | None = None,
    progress: backend.Progress | None = None,
) -> Artifact:
    """Compile a model for a target.

    Arguments:
        model: a Model (which is not changed), a ModelProto, the bytes of one, or a path.
        target: a name, the path of a TOML file, or a Target.
        passes: a pipeline or its text (None: "default"; "": none). The backend's own pipeline for the target, which
            for example assigns layouts to activations, runs after it.
        inputs: shapes to fix, by input name; other dynamic dimensions stay dynamic.
        verify: check every pass, and the compiled code, against ONNX Runtime. The manifest contains the measured errors
            (code for another machine cannot be measured here).
        data: arrays by input name to verify with; missing ones are generated from `seed`.
        samples, validation, metric, budget, preprocess: data and limits for lossy passes; `verify` uses `samples` too.
            See `graphopt.driver.optimizing.evaluate_on`.
        seed: for generated inputs.
        tune: measure which kernels are fastest first, for a time ("60s", "5m") or a number of measurements (200).
            None: use earlier measurements; "off": ignore these too.
        bundle_runtime: include the runtime libraries for the target in the artifact.
        time_limit: seconds that the compilation may take, including tuning; CompileError after that.
        keep_model: include the optimized model in the artifact, which otherwise contains its graph without weights.
        compact: avoid kernels whose packed weights are larger than the original ones, such as Winograd convolutions.
            The result is smaller but slower.
        observers: are notified of every pass.
        reproducer: a folder for the model and the command that repeat the failure of a pass.
        progress: is called with the current activity and the completed share (0 to 1).

    Returns the artifact, which is in a temporary folder until `save`. The report that observers receive has the time of
    each stage and kernel afterwards, in `code`.

    Raises:
        ModelError, InputError, TargetError, PipelineError: for invalid arguments.
        PassError: a pass failed.
        UnsupportedError: some nodes cannot be compiled; it lists all of them.
        CompileError: the backend failed, or took longer than `time_limit`.
        VerificationError: a check failed.

    Temporary files are removed after an error or an interruption.
    """
    tell, deadline = Stages(progress), Deadline(time_limit)
    made_for, tuning = load_target(target), Tuning.of(tune)
    tuning = dataclasses.replace(tuning, compact=compact or tuning.compact)
    tell("reading the model", 0.0)
    original = io.load(model)
    fix_shapes(original, inputs or {})
    tell("optimizing", 0.02)
    evaluation = evaluate_on(original, samples, validation, metric, budget, preprocess)
    lowered, feeds = original.copy(), verification_feeds(original, evaluation, data, seed) if verify else []
    optimized, report = optimize_for(
        lowered,
        made_for,
        passes,
        between=measuring(made_for, tuning, lambda what, done: tell(f"tuning: {what}", 0.05 + 0.15 * done), deadline),
        verify=verify,
        evaluation=evaluation,
        feeds=feeds,
        observers=[deadline, *observers],
        reproducer=reproducer,
        latencies=backend.load().latencies(made_for, tuning),
    )
    tell("starting the compiler", 0.2)
    with _new_folder() as folder:
        _keep(optimized, folder, whole=keep_model)
        with _saved(lowered) as path:
            # The child reads the file. Until it is done, the weights that passes created need not stay in memory.
            judged = optimized if verify else original
            del lowered, optimized
            gc.collect()
            built = _build(path, made_for, folder, tuning, lambda what, done: tell(what, 0.2 + 0.7 * done), deadline)
        tell("writing the artifact", 0.9)
        result = _completed(folder, made_for, built, report, bundle_runtime)
        if verify and made_for.kind == "cpu" and made_for.runs_here():
            tell("measuring the error", 0.95)
            every = evaluation.samples if data is None and evaluation.samples is not None else feeds
            _measure_errors(result, report, original, judged, every, None if verify is True else verify)
        tell("done", 1.0)
        report.code = Code(tell.seconds, built.code)
    return result


def _completed(folder: Path, target: Target, built: backend.Built, report: Report, bundle_runtime: bool) -> Artifact:
    """Write what is missing in the folder of a built model; return it as an artifact."""
    _write_report(report, folder / REPORT)
    runtime = backend.load().bundle(target, folder) if bundle_runtime else ()
    write_manifest(folder, _manifest(target, built, report, runtime))
    return Artifact(folder, temporary=True)


@contextmanager
def _new_folder() -> Iterator[Path]:
    """Yield a new temporary folder for an artifact, which is removed only if something goes wrong."""
    folder = Path(tempfile.mkdtemp(prefix="graphopt-"))
    try:
        yield folder
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise CompileError(
                f"the artifact cannot be written: {error.strerror or error}",
                where=str(folder.parent),
                remedy=child.ROOM,
            ) from error
        raise


def tune(
    model: Model | onnx.ModelProto | bytes | str | os.PathLike[str],
    target: Target | str | os.PathLike[str] = "host",
    passes: Pipeline | str | None = None,
    *,
    tuning: Tuning,
    inputs: Mapping[str, Sequence[int]] | None = None,
    observers: Sequence[Observer] = (),
    progress: backend.Progress | None = None,
) -> list[Tuned]:
    """Measure which kernels are fastest for a model, for all later compilations; return the results.

    The arguments are those of `compile`; `tuning.budget` says how much to spend. Raises what `compile` raises, and
    InputError or TargetError if nothing can be measured.
    """
    tell = progress or (lambda what, done: None)
    made_for = load_target(target)
    tell("reading the model", 0.0)
    lowered = io.load(model)
    fix_shapes(lowered, inputs or {})
    tell("optimizing", 0.02)
    between = measuring(made_for, tuning, lambda what, done: tell(what, 0.05 + 0.05 * done))
    latencies = backend.load().latencies(made_for, tuning)
    optimize_for(lowered, made_for, passes, between=between, observers=observers, latencies=latencies)
    with _saved(lowered) as path:
        return child.tune(path, made_for, lambda what, done: tell(what, 0.1 + 0.9 * done), tuning)


def _build(
    path: Path, target: Target, folder: Path, tuning: Tuning, progress: backend.Progress, deadline: Deadline
) -> backend.Built:
    """Build the model in the file `path` into `folder`; tune first if there is a budget for it."""
    if tuning.budget is None:
        return child.build(path, target, folder, progress, tuning, deadline)
    child.tune(path, target, lambda what, done: progress(f"tuning: {what}", 0.8 * done), tuning, deadline)
    return child.build(path, target, folder, lambda what, done: progress(what, 0.8 + 0.2 * done), tuning, deadline)


def _keep(model: Model, folder: Path, *, whole: bool) -> None:
    """Write the optimized model, or only its graph, into the artifact."""
    if whole:
        io.save(model, folder / MODEL)
    else:
        io.save_graph(model, folder / GRAPH)


@contextmanager
def _saved(model: Model) -> Iterator[Path]:
    with scratch("lowered") as place:
        path = place / MODEL
        io.save(model, path, external_data=True)  # written and read one tensor at a time
        del model  # drop the reference of this frame too
        yield path


def _manifest(target: Target, built: backend.Built, report: Report, runtime: Sequence[str]) -> Manifest:
    return Manifest(
        device=target.kind,
        machine=target.machine,
        features=target.features,
        target=encode(target),
        inputs=built.inputs,
        outputs=built.outputs,
        weights=built.weights,
        defaults=built.defaults,
        pipeline=report.pipeline,
        fidelity=report.fidelity.name.lower(),
        error=None,
        versions={"graphopt": version("graphopt"), **built.versions},
        memory=built.memory,
        workloads=built.workloads,
        runtime=tuple(runtime),
    )


def _write_report(report: Report, path: Path) -> None:
    """Write the report with its times set to zero, so that compiling twice gives the same bytes."""
    data = report.to_json()
    data.update(seconds=0.0, steps=[{**step, "seconds": 0.0} for step in data["steps"]])
    path.write_text(json.dumps(data) + "\n", encoding="utf-8")


def _measure_errors(
    result: Artifact, report: Report, original: Model, judged: Model, feeds: Any, tolerance: Tolerance | None
) -> None:
    """Check what was compiled; write the errors into the report, and the largest ones into the manifest."""
    lossy = report.fidelity is Fidelity.LOSSY
    errors = measure(result.run, original, judged, feeds, lossy=lossy, tolerance=tolerance)
    report.measured = Measured(errors.samples, errors.to_json())
    _write_report(report, result.folder / REPORT)
    largest = {name: spread.largest for name, spread in errors.outputs.items()}
    result.manifest = dataclasses.replace(result.manifest, error=largest)
    write_manifest(result.folder, result.manifest)
