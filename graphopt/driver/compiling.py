"""`compile`: load, optimize, build in a child process, measure, and hand back an artifact."""

from __future__ import annotations

import dataclasses
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
from graphopt.errors import CompileError, VerificationError
from graphopt.hardware.target import Target
from graphopt.hardware.target import load as load_target
from graphopt.rewriting.pipeline import Observer, Step
from graphopt.rewriting.shapes import fix_shapes
from graphopt.runtime.artifact import Artifact
from graphopt.runtime.manifest import GRAPH, MODEL, REPORT, Manifest
from graphopt.runtime.writing import write_manifest
from graphopt.util.codec import encode
from graphopt.util.scratch import scratch

from . import backend
from . import worker as child
from .optimizing import DEFAULT_PIPELINE, run_passes
from .tuning import Tuned, Tuning

if TYPE_CHECKING:
    import onnx

    from graphopt.ir import Model
    from graphopt.proof.tolerance import Tolerance
    from graphopt.rewriting.pipeline import Pipeline
    from graphopt.rewriting.report import Report


def compile(
    model: Model | onnx.ModelProto | bytes | str | os.PathLike[str],
    target: Target | str | os.PathLike[str] = "host",
    passes: Pipeline | str | None = None,
    *,
    inputs: Mapping[str, Sequence[int]] | None = None,
    verify: bool | Tolerance = False,
    data: Mapping[str, Any] | None = None,
    seed: int = 0,
    tune: Tuning | str | int | None = None,
    bundle_runtime: bool = False,
    keep_model: bool = False,
    observers: Sequence[Observer] = (),
    reproducer: str | os.PathLike[str] | None = None,
    progress: backend.Progress | None = None,
) -> Artifact:
    """Compile a model for a target.

    `model`: a Model (it is not changed), a ModelProto, the bytes of one, or a path. `target`: a name, a path of a
    TOML file, or a Target. `passes`: a pipeline or its text (None: "default"; "": none), behind which the backend adds
    what it needs for the target, as the layout of activations. `inputs`: shapes to fix, by
    input name; what is not fixed stays dynamic. `verify`: check every pass, and measure the compiled code, against
    ONNX Runtime on `data` (arrays by input name) or on inputs generated from `seed`; the measured errors are in
    the manifest (code for another machine cannot be measured here). `tune`: measure first which kernels are fastest,
    for as long ("60s", "5m") or as many measurements (200) as said; None: use what was measured before; "off": not
    even that. `bundle_runtime`: put the runtime libraries for
    the target into the artifact. `keep_model`: put the optimized model into the artifact, which otherwise has its graph
    without weights. `reproducer`: a folder in which a pass that fails leaves what repeats it.
    `progress` is told what is being done and how far it is (0 to 1).

    The artifact lies in a temporary folder until `save`. Raises ModelError, TargetError, PipelineError, PassError,
    InputError, UnsupportedError (it lists all unsupported nodes), CompileError, and VerificationError when a check
    fails. Nothing is left behind then, nor when interrupted.
    """
    tell = progress or (lambda what, done: None)
    made_for = load_target(target)
    tuning = Tuning.of(tune)
    tell("reading the model", 0.0)
    original = io.load(model)
    fix_shapes(original, inputs or {})
    tell("optimizing", 0.02)
    lowered = original.copy()
    pipeline = pipeline_for(made_for, passes)
    optimized = _Optimized(len(pipeline.steps) - len(lowering(made_for).steps))
    report = run_passes(
        lowered,
        pipeline,
        target=made_for,
        verify=verify,
        data=data,
        seed=seed,
        observers=[optimized, *observers],
        reproducer=reproducer,
    )
    folder = Path(tempfile.mkdtemp(prefix="graphopt-"))
    try:
        _keep(optimized.model or lowered, folder, whole=keep_model)
        built = _build(lowered, made_for, folder, tuning, lambda what, done: tell(what, 0.2 + 0.7 * done))
        _write_report(report, folder / REPORT)
        runtime = backend.load().bundle(made_for, folder) if bundle_runtime else ()
        manifest = _manifest(made_for, built, report, runtime)
        write_manifest(folder, manifest)
        result = Artifact(folder, temporary=True)
        if verify and made_for.kind == "cpu" and made_for.runs_here():
            tell("measuring the error", 0.95)
            _measure(result, original, data, seed, verify)
        tell("done", 1.0)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise CompileError(
                f"the artifact cannot be written: {error.strerror or error}",
                where=str(folder.parent),
                remedy=child.ROOM,
            ) from error
        raise
    return result


def pipeline_for(target: Target, passes: Pipeline | str | None = None) -> Pipeline:
    """What `compile` runs: `passes` (None: "default"), and behind them what the backend does for `target`.

    An empty pipeline stays empty. Raises PipelineError.
    """
    from graphopt.rewriting.pipeline import Pipeline

    chosen = DEFAULT_PIPELINE if passes is None else passes
    pipeline = Pipeline.parse(chosen) if isinstance(chosen, str) else chosen
    return Pipeline(pipeline.steps + lowering(target).steps) if pipeline.steps else pipeline


def lowering(target: Target) -> Pipeline:
    """What the backend does to an optimized model for `target` alone."""
    from graphopt.rewriting.pipeline import Pipeline

    return Pipeline.parse(backend.load().pipeline(target))


class _Optimized(Observer):
    """Keeps the model as it is before step `place` of the pipeline: one that any runtime runs well.

    What follows serves the target's kernels, and would slow others down.
    """

    def __init__(self, place: int) -> None:
        self.place = str(place)
        self.model: Model | None = None

    def before(self, step: Step, model: Model) -> None:
        if self.model is None and step.path.partition(".")[0] == self.place:
            self.model = model.copy()


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
    """Measure which kernels are fastest for a model, for all compilations to come; returns what was found out.

    The arguments are those of `compile`; `tuning.budget` says how much to spend. Raises what `compile` raises, and
    InputError or TargetError where nothing can be measured.
    """
    tell = progress or (lambda what, done: None)
    made_for = load_target(target)
    tell("reading the model", 0.0)
    lowered = io.load(model)
    fix_shapes(lowered, inputs or {})
    tell("optimizing", 0.02)
    run_passes(lowered, pipeline_for(made_for, passes), target=made_for, observers=observers)
    with _saved(lowered) as path:
        return child.tune(path, made_for, lambda what, done: tell(what, 0.1 + 0.9 * done), tuning)


def _build(model: Model, target: Target, folder: Path, tuning: Tuning, progress: backend.Progress) -> backend.Built:
    """Build a model into `folder`, from a file that does not stay; tuned first where there is a budget for it."""
    with _saved(model) as path:
        if tuning.budget is None:
            return child.build(path, target, folder, progress, tuning)
        child.tune(path, target, lambda what, done: progress(what, 0.8 * done), tuning)
        return child.build(path, target, folder, lambda what, done: progress(what, 0.8 + 0.2 * done), tuning)


def _keep(model: Model, folder: Path, *, whole: bool) -> None:
    """Write the optimized model into the artifact, or its graph alone."""
    if whole:
        io.save(model, folder / MODEL)
    else:
        io.save_graph(model, folder / GRAPH)


@contextmanager
def _saved(model: Model) -> Iterator[Path]:
    with scratch("lowered") as place:
        path = place / MODEL
        io.save(model, path, external_data=True)  # written and read tensor by tensor
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
        pipeline=report.pipeline,
        fidelity=report.fidelity.name.lower(),
        error=None,
        versions={"graphopt": version("graphopt"), **built.versions},
        memory=built.memory,
        workloads=built.workloads,
        runtime=tuple(runtime),
    )


def _write_report(report: Report, path: Path) -> None:
    """The report with its times set to zero: what is compiled twice must be the same bytes."""
    data = report.to_json()
    data.update(seconds=0.0, steps=[{**step, "seconds": 0.0} for step in data["steps"]])
    path.write_text(json.dumps(data) + "\n", encoding="utf-8")


def _measure(
    result: Artifact, original: Model, data: Mapping[str, Any] | None, seed: int, verify: bool | Tolerance
) -> None:
    """Compare the compiled code with the original model, and write the errors into the manifest."""
    from graphopt.data.inputs import compare_with_oracle, generate
    from graphopt.proof.tolerance import Tolerance

    sample = generate(original, given=data, seed=seed)
    allowed = verify if isinstance(verify, Tolerance) else None
    comparison = compare_with_oracle(original, sample, result.run(sample.inputs), allowed)
    if not comparison.ok:
        raise VerificationError(
            f"the compiled code differs from the model:\n{comparison}",
            where=original.name,
            remedy="graphopt bisect finds the pass; if it finds none, report the model: the code generator is wrong",
        )
    error = {difference.name: difference.error for difference in comparison.differences}
    result.manifest = dataclasses.replace(result.manifest, error=error)
    write_manifest(result.folder, result.manifest)
