"""`graphopt compile`: the complete way from an ONNX model to native code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphopt.util.tables import format_bytes, format_seconds

from . import options
from .inspect import memory_text
from .optimize import show_report
from .output import Output
from .verify import errors_table

if TYPE_CHECKING:
    from graphopt.rewriting.report import Report
    from graphopt.runtime.artifact import Artifact

    from .watch import ReportKeeper


OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        help="Where to write the compiled model; by default the model's name with .gopt.",
        metavar="OUT.gopt",
        show_default=False,
    ),
]
TargetOption = Annotated[
    str,
    typer.Option("--target", "-t", help="The target to compile for; `graphopt targets` lists all."),
]
BundleRuntimeOption = Annotated[
    bool,
    typer.Option("--bundle-runtime", help="Include the runtime libraries for the target."),
]
CompactOption = Annotated[
    bool,
    typer.Option(
        "--compact",
        help="Avoid kernels whose packed weights are larger than the original ones: a smaller but slower result.",
    ),
]
KeepModelOption = Annotated[
    bool,
    typer.Option("--keep-model", help="Include the optimized model in the result, as model.onnx."),
]
TimeLimitOption = Annotated[
    str | None,
    typer.Option(
        "--time-limit",
        metavar="TIME",
        help="Stop with an error after this time, e.g. 90s, 5m or 1h.",
        show_default=False,
    ),
]
VerboseOption = Annotated[
    bool,
    typer.Option(
        "--verbose", "-v", help="Show the time of each stage, and of the kernels with the slowest code generation."
    ),
]

_SLOWEST = 10  # kernels that --verbose shows


def compile_(
    model: options.Model,
    out: OutOption = None,
    target: TargetOption = "host",
    passes: options.Passes = None,
    level: options.Level = None,
    shapes: options.InputShapes = None,
    verify: options.Verify = False,
    inputs: options.InputFile = None,
    samples: options.Samples = None,
    validate: options.Validate = None,
    metric: options.Metric = None,
    max_drop: options.MaxDrop = None,
    preprocess: options.PreprocessRule = None,
    seed: options.Seed = 0,
    tune: options.Tune = None,
    rpc: options.Rpc = None,
    rpc_key: options.RpcKey = None,
    records: options.Records = None,
    bundle_runtime: BundleRuntimeOption = False,
    compact: CompactOption = False,
    keep_model: KeepModelOption = False,
    time_limit: TimeLimitOption = None,
    pass_limit: options.PassLimit = None,
    print_changed: options.PrintChanged = False,
    reproducer: options.Reproducer = None,
    load: options.Load = None,
    verbose: VerboseOption = False,
    as_json: options.Json = False,
) -> None:
    """Optimize a model and compile it to native code.

    The result is a folder with native code, weights, the graph without weights, and a report. `graphopt run` runs it,
    `graphopt bench` times it, `graphopt.runtime.load` loads it in Python, and docs/deploy.md shows its use in C++.

    \b
    Examples:
        graphopt compile model.onnx                                   for this machine: model.gopt
        graphopt compile model.onnx --input x:1x3x224x224 --verify    fixed shape, every step checked
        graphopt compile model.onnx --target arm:cortex-a76 --bundle-runtime -o board.gopt
        graphopt compile model.onnx --input x:1x3x224x224 --tune 5m   with the fastest kernels, found by measuring
    """
    import graphopt
    from graphopt import io
    from graphopt.data import inputs as generated
    from graphopt.runtime.writing import check_replaceable

    from .watch import ReportKeeper, observers

    options.check_inputs_are_used(inputs, verify, samples)
    evaluation = options.evaluation(samples, validate, metric, max_drop, preprocess)
    options.load_modules(load)
    output, chosen = Output(as_json), options.choose_tuning(tune, records, rpc, rpc_key)
    place = out or model.with_suffix(".gopt")
    check_replaceable(place)
    before = io.load(model)
    data = generated.load_npz(inputs, before) if inputs else None
    watcher = ReportKeeper()
    with output.progress() as progress:
        artifact = graphopt.compile(
            before,
            target,
            options.choose_pipeline(passes, level),
            inputs=options.parse_shapes(shapes),
            verify=verify,
            data=data,
            **evaluation,
            seed=seed,
            tune=chosen,
            bundle_runtime=bundle_runtime,
            time_limit=options.seconds(time_limit),
            keep_model=keep_model,
            compact=compact,
            observers=[watcher, *observers(progress, 0.02, 0.2, pass_limit, print_changed)],
            reproducer=reproducer,
            progress=progress,
        )
        artifact.save(place)
    show_report(output, watcher.report)
    _show(output, artifact, model, place, watcher.report, _SLOWEST if verbose else 0)
    output.result(_document(artifact, place, watcher))


def _document(artifact: Artifact, place: Path, watcher: ReportKeeper) -> dict[str, Any]:
    """Return what `--json` prints: the manifest without the list of weights, and the report."""
    manifest: dict[str, Any] = json.loads(artifact.manifest.to_json())
    del manifest["weights"]
    return {
        "artifact": str(place),
        "bytes": artifact.nbytes,
        "nodes": {"before": watcher.nodes_before, "after": watcher.nodes_after},
        "manifest": manifest,
        "report": watcher.report.to_json(),
    }


def _show(output: Output, artifact: Artifact, model: Path, place: Path, report: Report, slowest: int) -> None:
    manifest = artifact.manifest
    output.line(
        f"\nwrote {place}: {format_bytes(artifact.nbytes)} for {manifest.target.get('name')} "
        f"(the model was {format_bytes(model.stat().st_size)}), fidelity {manifest.fidelity}, "
        f"passes took {format_seconds(report.seconds)}"
    )
    output.line(f"memory: {memory_text(manifest.memory)}")
    if manifest.workloads.tuned:
        output.line(
            f"tuned: {manifest.workloads.tuned} of {manifest.workloads.total} distinct convolutions and matmuls"
        )
    if manifest.error is not None:
        worst = max(manifest.error.values(), default=0.0)
        output.line(f"compiled code against ONNX Runtime: largest relative error {worst:.3g}")
    if report.measured is not None:
        output.line()
        output.table(errors_table(report.measured.samples, report.measured.outputs))
    if slowest and report.code is not None:
        output.table(report.code.stages_table())
        output.table(report.code.kernels_table(slowest))
