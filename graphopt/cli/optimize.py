"""`graphopt optimize`: runs passes only, from ONNX to ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphopt.util.tables import format_bytes, format_seconds

from . import options
from .output import Output

if TYPE_CHECKING:
    from graphopt.rewriting.report import Report


OutOption = Annotated[
    Path, typer.Option("--out", "-o", help="Where to write the result.", metavar="OUT.onnx", show_default=False)
]
TargetOption = Annotated[
    str | None,
    typer.Option("--target", "-t", help="The target that passes may specialize for.", show_default=False),
]
ExternalDataOption = Annotated[bool, typer.Option("--external-data", help="Write the weights into a separate file.")]


def optimize(
    model: options.Model,
    out: OutOption,
    passes: options.Passes = None,
    level: options.Level = None,
    shapes: options.InputShapes = None,
    target: TargetOption = None,
    verify: options.Verify = False,
    inputs: options.InputFile = None,
    samples: options.Samples = None,
    validate: options.Validate = None,
    metric: options.Metric = None,
    max_drop: options.MaxDrop = None,
    preprocess: options.PreprocessRule = None,
    seed: options.Seed = 0,
    pass_limit: options.PassLimit = None,
    print_changed: options.PrintChanged = False,
    reproducer: options.Reproducer = None,
    load: options.Load = None,
    external_data: ExternalDataOption = False,
    as_json: options.Json = False,
) -> None:
    """Run passes over a model and write it as ONNX again.

    \b
    Examples:
        graphopt optimize model.onnx -o smaller.onnx
        graphopt optimize model.onnx -o out.onnx --passes 'fold-constants,eliminate-dead' --verify
        graphopt optimize model.onnx -o out.onnx --load my_passes.py --passes default,my-pass --print-changed
    """
    from graphopt import io
    from graphopt.data import inputs as generated
    from graphopt.driver import optimizing as api

    from .watch import observers

    options.check_inputs_are_used(inputs, verify, samples)
    evaluation = options.evaluation(samples, validate, metric, max_drop, preprocess)
    options.load_modules(load)
    output = Output(as_json)
    before = io.load(model)
    data = generated.load_npz(inputs, before) if inputs else None
    with output.progress() as progress:
        optimized, report = api.optimize(
            before,
            options.choose_pipeline(passes, level),
            inputs=options.parse_shapes(shapes),
            target=target,
            verify=verify,
            data=data,
            **evaluation,
            seed=seed,
            observers=observers(progress, 0.0, 1.0, pass_limit, print_changed),
            reproducer=reproducer,
        )
    io.save(optimized, out, external_data=external_data or None)
    show_report(output, report)
    sizes = [format_bytes(path.stat().st_size) for path in (model, out)]
    nodes = [len(m.graph.nodes) for m in (before, optimized)]
    output.line(
        f"\nwrote {out}: {nodes[0]:,} nodes -> {nodes[1]:,}, {sizes[0]} -> {sizes[1]}, "
        f"in {format_seconds(report.seconds)}, fidelity {report.fidelity.name.lower()}"
    )
    output.result({"file": str(out), "nodes": {"before": nodes[0], "after": nodes[1]}, "report": report.to_json()})


def show_report(output: Output, report: Report) -> None:
    """Print what each pass did, why passes declined, and what verification measured."""
    output.table(report.table())
    output.table(report.misses_table())
    if report.error is not None:
        output.line(f"\nlargest relative error of any step against the original: {report.error:.3g}")
    if report.loss is not None:
        output.line(f"\nloss of lossy passes: {report.loss:.3%} of the metric")
