"""`graphopt quantize`: from a float model and samples to a quantized model that keeps its accuracy."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphopt.errors import InputError

from . import options
from .output import Output

if TYPE_CHECKING:
    from graphopt.driver.quantizing import Quantized

SCHEMES = {
    "int8": "quantize",
    "int8-dynamic": "quantize-int8-dynamic",
    "int4-weights": "quantize-int4",
    "float16": "half",
    "bfloat16": "bfloat16",
}
"""The pipelines by the name of `--scheme`."""

_CHOSEN = ("calibration", "percentile", "activations", "symmetric", "per_channel", "ignore")
"""The options of `quantize-static` that the command has options for."""

_WORST = 10
"""How many layers with the noisiest results are printed; --json has all."""

OutOption = Annotated[
    Path, typer.Option("--out", "-o", help="Where to write the result.", metavar="OUT.onnx", show_default=False)
]
CalibrationOption = Annotated[
    Path | None,
    typer.Option(
        "--calibration",
        "-c",
        metavar="DATA",
        help="Typical inputs, without labels: an .npz or .npy file with a leading axis over samples, a folder of such "
        "files with one sample each, or a folder of images (with --preprocess).",
        show_default=False,
    ),
]
SchemeOption = Annotated[str | None, typer.Option(metavar="NAME", help=f"{', '.join(SCHEMES)}.  [default: int8]")]
ProfileOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The runtime whose integer kernels the file is for: portable, onnxruntime, openvino or tensorrt.  "
        "[default: onnxruntime]",
    ),
]
MethodOption = Annotated[
    str | None,
    typer.Option(
        "--method",
        metavar="NAME",
        help="How ranges are chosen: mse, min-max, moving-average, percentile or entropy.  [default: mse]",
    ),
]
PercentileOption = Annotated[
    float | None, typer.Option(metavar="PERCENT", help="For the method of that name.  [default: 99.99]")
]
ActivationsOption = Annotated[str | None, typer.Option(metavar="TYPE", help="uint8 or int8.  [default: uint8]")]
SymmetricOption = Annotated[
    bool | None, typer.Option("--symmetric/--asymmetric", help="Zero points of activations.  [default: asymmetric]")
]
ChannelOption = Annotated[
    bool | None,
    typer.Option("--per-channel/--per-tensor", help="Scales of weights.  [default: per-channel]"),
]
IgnoreOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN",
        help="Nodes that stay floats: an operator, a name, 're:EXPRESSION', or 'from..to'. May be repeated.",
    ),
]
StatisticsOption = Annotated[
    list[Path] | None,
    typer.Option(metavar="FILE", help="Use these statistics, merged with those of the samples. May be repeated."),
]
SaveOption = Annotated[
    Path | None, typer.Option(metavar="FILE.npz|FILE.json", help="Save the statistics of activations in this file.")
]
SensitivityOption = Annotated[bool, typer.Option("--sensitivity", help="Show the error that each layer contributes.")]
PictureOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE.svg", help="Draw the sensitivity of layers, or without --sensitivity their errors."),
]
CostOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="What the search for layers to quantize saves: flops, bytes, or latency with --target.  "
        "[default: latency with --target, else flops]",
    ),
]
TargetOption = Annotated[
    str | None,
    typer.Option(
        "--target",
        "-t",
        help="Let layers that are not faster as integers on this target stay floats; `graphopt targets` lists all.",
        show_default=False,
    ),
]
TuneOption = Annotated[
    str | None,
    typer.Option(
        "--tune",
        metavar="BUDGET",
        help="Measure the layers in floats and in integers first, for a time (60s, 5m) or a number of measurements "
        "(200); what earlier runs measured is not measured again. Without it, layers that were never measured are "
        "estimated; `off` ignores measurements.",
        show_default=False,
    ),
]
SpeedOption = Annotated[
    bool, typer.Option("--speed", help="Compile the model before and after for this machine, and time both.")
]


def quantize(
    model: options.Model,
    out: OutOption,
    calibration: CalibrationOption = None,
    validate: options.Validate = None,
    metric: options.Metric = None,
    max_drop: options.MaxDrop = None,
    preprocess: options.PreprocessRule = None,
    scheme: SchemeOption = None,
    profile: ProfileOption = None,
    method: MethodOption = None,
    percentile: PercentileOption = None,
    activations: ActivationsOption = None,
    symmetric: SymmetricOption = None,
    per_channel: ChannelOption = None,
    ignore: IgnoreOption = None,
    passes: options.Passes = None,
    shapes: options.InputShapes = None,
    statistics: StatisticsOption = None,
    save_statistics: SaveOption = None,
    sensitivity: SensitivityOption = False,
    picture: PictureOption = None,
    cost: CostOption = None,
    target: TargetOption = None,
    tune: TuneOption = None,
    rpc: options.Rpc = None,
    rpc_key: options.RpcKey = None,
    records: options.Records = None,
    speed: SpeedOption = False,
    load: options.Load = None,
    as_json: options.Json = False,
) -> None:
    """Quantize a model on samples, and measure what it lost.

    With --max-drop, layers stay floats where that is needed: a search finds those that cost least. Its best model so
    far is in OUT.onnx.search/; a search that was interrupted goes on when the command is run again. The exit status
    is 1 if nothing keeps to the budget; the model that comes nearest is written then.

    \b
    Examples:
        graphopt quantize model.onnx -o int8.onnx --calibration samples.npz
        graphopt quantize model.onnx -o int8.onnx -c samples.npz --validate labelled.npz --max-drop 0.5%
        graphopt quantize model.onnx -o int8.onnx -c pictures/ --preprocess imagenet --profile tensorrt
        graphopt quantize model.onnx -o int8.onnx -c samples.npz --target host --tune 2m
    """
    from graphopt import io
    from graphopt.driver.quantization_plan import profile_options
    from graphopt.driver.quantizing import quantize as run

    options.load_modules(load)
    patterns = tuple(ignore) if ignore else None
    chosen = dict(zip(_CHOSEN, (method, percentile, activations, symmetric, per_channel, patterns), strict=True))
    given = {name: value for name, value in chosen.items() if value is not None}
    _check(out, save_statistics, picture)
    tuning = options.choose_tuning(tune, records, rpc, rpc_key)
    output, folder = Output(as_json), out.with_name(f"{out.name}.search")
    try:
        with output.progress() as progress:
            result = run(
                model,
                calibration,
                passes=_pipeline(passes, scheme),
                options={**profile_options(profile), **given},
                inputs=options.parse_shapes(shapes),
                validation=validate,
                metric=metric,
                budget=max_drop,
                preprocess=preprocess,
                statistics=statistics or (),
                sensitivity=sensitivity,
                cost=cost,
                target=target,
                tune=tuning,
                speed=speed,
                work_in=folder,
                progress=progress,
            )
    except KeyboardInterrupt:
        if folder.is_dir():
            output.note(f"\n{folder} has the best model so far; run the same command again to continue the search")
        raise
    io.save(result.model, out)
    _save(result, save_statistics, picture, model)
    _show(output, result, model, out)


def _check(out: Path, statistics: Path | None, picture: Path | None) -> None:
    """Raise InputError before any work for files that cannot be written."""
    if statistics is not None and statistics.suffix not in (".npz", ".json"):
        raise InputError(
            f"statistics cannot be saved in '{statistics}'", remedy="Name a file that ends in .npz or .json."
        )
    if out.is_dir():
        raise InputError("this is a folder, not a file", where=str(out), remedy="Name an .onnx file.")
    for path in filter(None, (out, statistics, picture)):
        try:
            with tempfile.TemporaryFile(dir=path.parent):
                pass
        except OSError as error:
            raise InputError(
                f"nothing can be written there: {error.strerror}", where=str(path.parent), remedy="Name another folder."
            ) from None


def _pipeline(passes: str | None, scheme: str | None) -> str:
    if passes is not None and scheme is not None:
        raise InputError("--passes and --scheme contradict each other", remedy="Give one of them.")
    if scheme is not None and scheme not in SCHEMES:
        raise InputError(f"there is no scheme '{scheme}'", remedy=f"The schemes are: {', '.join(SCHEMES)}.")
    return passes or SCHEMES[scheme or "int8"]


def _save(result: Quantized, statistics: Path | None, picture: Path | None, model: Path) -> None:
    from graphopt.compression.sensitivity import draw_errors

    if statistics is not None:
        if result.statistics is None:
            raise InputError("there are no statistics to save: no pass asked for any", where="--save-statistics")
        result.statistics.save(statistics)
    if picture is not None:
        found = result.report.sensitivity
        if found is None:
            drawn = draw_errors(result.report.errors, f"{model.name}: errors of the results of layers")
        else:
            drawn = draw_errors(found.layers, f"{model.name}: error of the outputs if one layer is quantized")
        picture.write_text(drawn, encoding="utf-8")


def _show(output: Output, result: Quantized, model: Path, out: Path) -> None:
    """Print the report. Exits with status 1 if the budget is not met."""
    from graphopt.compression.layer_errors import results_table

    report = result.report
    report.files = {"before": _size(model), "after": _size(out)}
    for warning in report.warnings:
        output.note(f"warning: {warning}")
    output.table(report.passes.table())
    output.table(report.summary())
    output.table(results_table(report.errors, _WORST))
    if report.placement is not None:
        output.table(report.placement.table(_WORST))
    if report.sensitivity is not None:
        output.table(report.sensitivity.table())
    output.table(report.layers_table())
    output.line(f"\nwrote {out}; the pipeline is:\n  {report.pipeline}")
    document: dict[str, Any] = {"file": str(out), **report.to_json()}
    output.result(document)
    loss = f"{report.measured.loss:.3%} of {report.measured.metric}"
    if report.met:
        output.line(f"loss: {loss}" + ("" if report.limit is None else f", of at most {report.limit:.3%}"))
        return
    output.note(
        f"error: {out}: the loss is {loss}, but only {report.limit:.3%} may be lost; no choice of layers tried "
        f"({report.tried}) loses less\n  the model with the least loss was written; try --passes quantize,mend, more "
        "samples, or a larger --max-drop"
    )
    raise typer.Exit(1)


def _size(path: Path) -> int:
    """Return the bytes of a model with its external data."""
    data = path.with_name(f"{path.name}.data")
    return path.stat().st_size + (data.stat().st_size if data.is_file() else 0)
