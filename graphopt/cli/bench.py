"""`graphopt bench`: times an artifact against ONNX Runtime."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphopt.errors import InputError
from graphopt.util.codec import decode
from graphopt.util.tables import Table, format_seconds

from .models import keeps_model, open_model
from .options import InputFile, InputShapes, Json, Seed, parse_shapes
from .output import Output

if TYPE_CHECKING:
    from graphopt.ir import Model
    from graphopt.profiling.bench import Timing
    from graphopt.runtime.session import Session

BASELINES = ("onnxruntime", "none")
_LABELS = {"graphopt": "graphopt", "onnxruntime": "ONNX Runtime"}


ArtifactArgument = Annotated[Path, typer.Argument(help="The compiled model.", metavar="MODEL.gopt", show_default=False)]
ModelOption = Annotated[
    Path | None,
    typer.Option(
        help="The model for the baseline; by default the one in the artifact, if compiled with --keep-model.",
        metavar="MODEL.onnx",
        show_default=False,
    ),
]
ThreadsOption = Annotated[int, typer.Option(help="Threads for each runtime.", min=1)]
BaselineOption = Annotated[str, typer.Option(help="What to compare with: onnxruntime or none.")]
RunsOption = Annotated[int, typer.Option(help="Timed runs of each runtime.", min=1)]
SecondsOption = Annotated[float, typer.Option(help="Start no further runs after this many seconds.", min=0)]
ProfiledOption = Annotated[bool, typer.Option("--profile", help="Also show where the time goes, kernel by kernel.")]
TopOption = Annotated[int, typer.Option(help="How many kernels --profile lists; --json lists all.", min=1)]
PictureOption = Annotated[
    Path | None,
    typer.Option(help="Draw the profile into this file, one bar per kernel.", metavar="FILE.svg", show_default=False),
]


def bench(
    artifact: ArtifactArgument,
    model: ModelOption = None,
    threads: ThreadsOption = 1,
    baseline: BaselineOption = "onnxruntime",
    runs: RunsOption = 50,
    seconds: SecondsOption = 30.0,
    shapes: InputShapes = None,
    inputs: InputFile = None,
    seed: Seed = 0,
    profiled: ProfiledOption = False,
    top: TopOption = 20,
    picture: PictureOption = None,
    as_json: Json = False,
) -> None:
    """Time a compiled model against ONNX Runtime.

    Both get the same inputs and number of threads, and their runs alternate.

    The ratio is that of the medians (p50); graphopt is faster if it is above 1.

    --profile times every kernel within whole runs and names the layers of the model that it computes. FLOPs are those
    of the layers. `of peak` and `of memory` are relative to a loop of multiply-adds and a sum over a large array,
    measured on this machine with the same number of threads and the same instructions.

    \b
    Examples:
        graphopt bench model.gopt --model model.onnx
        graphopt bench model.gopt --model model.onnx --threads 2 --json
        graphopt bench model.gopt --baseline none --profile --picture profile.svg
    """
    from graphopt import runtime
    from graphopt.profiling.bench import interleave
    from graphopt.proof.oracle import Reference

    output = Output(as_json)
    if baseline not in BASELINES:
        raise InputError(f"there is no baseline '{baseline}'", remedy=f"one of: {', '.join(BASELINES)}")
    if picture is not None and not profiled:
        raise InputError(
            "--picture draws the profile, and there is none", remedy="Add --profile, or leave --picture out."
        )
    session = runtime.load(artifact, threads=threads)
    has_model = model is not None or keeps_model(session.manifest)
    if baseline != "none" and not has_model:
        raise InputError(
            "ONNX Runtime needs the model, and the artifact does not contain it",
            where=str(artifact),
            remedy="pass it with --model MODEL.onnx, compile with --keep-model, or use --baseline none",
        )
    opened = open_model(model or artifact)
    arrays = _inputs(opened, session, None if has_model else _Compiled(session), shapes, inputs, seed)
    runners: dict[str, Any] = {"graphopt": lambda: session.run(arrays)}
    if baseline == "none":
        timings = interleave(runners, runs=runs, seconds=seconds)
    else:
        with Reference(opened, optimize=True, threads=threads) as reference:
            runners["onnxruntime"] = lambda: reference.run(arrays)
            timings = interleave(runners, runs=runs, seconds=seconds)
    sizes = {name: list(array.shape) for name, array in arrays.items()}
    result = _show(output, timings, threads, sizes)
    if profiled:
        result["profile"] = _profile(output, session, artifact, arrays, runs, seconds, top, picture)
    output.result(result)


def _profile(
    output: Output,
    session: Session,
    artifact: Path,
    arrays: dict[str, Any],
    runs: int,
    seconds: float,
    top: int,
    picture: Path | None,
) -> dict[str, Any]:
    """Trace the kernels, print and draw the profile, and return it as JSON types."""
    from graphopt.driver import backend
    from graphopt.driver.backend import Peak
    from graphopt.hardware.target import Target
    from graphopt.profiling.profile import profile

    from . import profile as shown

    def peak() -> Peak:
        return backend.load().peak(decode(Target, session.manifest.target), session.threads)

    before = peak()
    measured = profile(session, artifact, arrays, runs=runs, seconds=seconds)
    measured = dataclasses.replace(measured, peak=before.or_better(peak()))
    output.table(shown.table(measured, top))
    if all(call.kernel.bytes is None for call in measured.calls):
        output.line("\nThe model has open sizes, so its FLOPs are unknown: compile it with --input NAME:SHAPE.")
    if picture is not None:
        shown.write_picture(measured, artifact.name, picture)
        output.line(f"\nwrote {picture}")
    return measured.to_json()


class _Compiled:
    """The compiled model as the judge of generated inputs where there is no other model: accepts or rejects them."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        from graphopt.proof.oracle import OracleError

        try:
            return self._session.run(inputs)
        except InputError as error:
            raise OracleError(str(error)) from error


def _inputs(
    opened: Model,
    session: Session,
    judge: _Compiled | None,
    shapes: list[str] | None,
    file: Path | None,
    seed: int,
) -> dict[str, Any]:
    """Return the inputs of the file, or generated ones of the given shapes; an open batch size becomes 1.

    `judge` decides which generated inputs are valid; if it is None, ONNX Runtime does, running the model `opened`.
    """
    from graphopt.data import inputs

    ports = session.manifest.inputs
    fixed = {
        port.name: tuple(dim for dim in port.shape if isinstance(dim, int))
        for port in ports
        if all(isinstance(dim, int) for dim in port.shape)
    }
    asked = parse_shapes(shapes)
    given = inputs.load_npz(file, opened) if file else None
    sample = inputs.generate(opened, seed=seed, shapes={**fixed, **asked}, given=given, reference=judge)
    if given or asked:
        return sample.inputs
    single = {port.name: (1, *sample.inputs[port.name].shape[1:]) for port in ports if _has_open_batch(port.shape)}
    with contextlib.suppress(InputError):  # the model may tie the first size to another one
        sample = inputs.generate(opened, seed=seed, shapes={**fixed, **single}, reference=judge)
    return sample.inputs


def _has_open_batch(shape: tuple[int | str | None, ...]) -> bool:
    return len(shape) > 1 and not isinstance(shape[0], int)


def _show(output: Output, timings: dict[str, Timing], threads: int, shapes: dict[str, list[int]]) -> dict[str, Any]:
    """Print the times, and return them as JSON types."""
    sizes = ", ".join(f"{name} {'x'.join(map(str, shape)) or 'scalar'}" for name, shape in shapes.items())
    table = Table(
        f"{threads} thread{'s' if threads > 1 else ''}, {sizes}",
        ("runner", "p50", "p90", "fastest", "runs"),
        right=frozenset({"p50", "p90", "fastest", "runs"}),
    )
    for name, timing in timings.items():
        times = (format_seconds(value) for value in (timing.p50, timing.p90, timing.best))
        table.add(_LABELS[name], *times, timing.runs)
    output.table(table)
    ratio = None
    if "onnxruntime" in timings:
        ratio = timings["onnxruntime"].p50 / timings["graphopt"].p50
        output.line(f"\nratio: {ratio:.2f} (time of ONNX Runtime / time of graphopt, p50)")
    return {
        "threads": threads,
        "inputs": shapes,
        "timings": {name: timing.to_json() for name, timing in timings.items()},
        "ratio": ratio,
    }
