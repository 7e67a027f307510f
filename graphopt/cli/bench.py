"""`graphopt bench`: an artifact against ONNX Runtime, side by side."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphopt.errors import InputError
from graphopt.tables import Table, format_seconds

from .models import open_model
from .options import InputFile, InputShapes, Json, Seed, parse_shapes
from .output import Output

if TYPE_CHECKING:
    from graphopt.bench import Timing

BASELINES = ("onnxruntime", "none")
_LABELS = {"graphopt": "graphopt", "onnxruntime": "ONNX Runtime"}


def bench(
    artifact: Annotated[Path, typer.Argument(help="The compiled model.", metavar="MODEL.gopt", show_default=False)],
    model: Annotated[
        Path | None,
        typer.Option(
            help="The model that the baseline runs; the optimized one in the artifact by default.",
            metavar="MODEL.onnx",
            show_default=False,
        ),
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads for each.", min=1)] = 1,
    baseline: Annotated[str, typer.Option(help="What to measure against: onnxruntime or none.")] = "onnxruntime",
    runs: Annotated[int, typer.Option(help="Timed runs of each.", min=1)] = 50,
    seconds: Annotated[float, typer.Option(help="Start no new round after this long.", min=0)] = 30.0,
    shapes: InputShapes = None,
    inputs: InputFile = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Time a compiled model against ONNX Runtime.

    Both get the same inputs and threads, and their runs alternate.

    The ratio is that of the medians (p50): above 1, graphopt is faster.

    \b
    Examples:
        graphopt bench model.gopt
        graphopt bench model.gopt --model model.onnx --threads 2 --json
    """
    from graphopt import runtime
    from graphopt.bench import interleave
    from graphopt.reference import Reference

    output = Output(as_json)
    if baseline not in BASELINES:
        raise InputError(f"there is no baseline '{baseline}'", remedy=f"one of: {', '.join(BASELINES)}")
    session = runtime.load(artifact, threads=threads)
    arrays = _inputs(artifact, model, session.manifest.inputs, shapes, inputs, seed)
    runners: dict[str, Any] = {"graphopt": lambda: session.run(arrays)}
    if baseline == "none":
        timings = interleave(runners, runs=runs, seconds=seconds)
    else:
        opened = open_model(model or artifact)
        with Reference(opened, optimize=True, threads=threads) as reference:
            runners["onnxruntime"] = lambda: reference.run(arrays)
            timings = interleave(runners, runs=runs, seconds=seconds)
    _show(output, timings, threads, {name: list(array.shape) for name, array in arrays.items()})


def _inputs(
    artifact: Path, model: Path | None, ports: Any, shapes: list[str] | None, file: Path | None, seed: int
) -> dict[str, Any]:
    """The inputs of the file, or generated ones of the shapes asked for; a batch that nothing fixes is of one."""
    from graphopt import inputs

    opened = open_model(model or artifact)
    fixed: dict[str, tuple[int, ...]] = {
        port.name: port.shape for port in ports if all(isinstance(dim, int) for dim in port.shape)
    }
    asked = parse_shapes(shapes)
    given = inputs.load_npz(file, opened) if file else None
    sample = inputs.generate(opened, seed=seed, shapes={**fixed, **asked}, given=given)
    if given or asked:
        return sample.inputs
    single = {port.name: (1, *sample.inputs[port.name].shape[1:]) for port in ports if _has_open_batch(port.shape)}
    with contextlib.suppress(InputError):  # the model may tie the first size to something else
        sample = inputs.generate(opened, seed=seed, shapes={**fixed, **single})
    return sample.inputs


def _has_open_batch(shape: tuple[int | str | None, ...]) -> bool:
    return len(shape) > 1 and not isinstance(shape[0], int)


def _show(output: Output, timings: dict[str, Timing], threads: int, shapes: dict[str, list[int]]) -> None:
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
    output.result(
        {
            "threads": threads,
            "inputs": shapes,
            "timings": {name: timing.to_json() for name, timing in timings.items()},
            "ratio": ratio,
        }
    )
