"""Options that several commands share, and the parsing of their values."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphopt.errors import InputError, PipelineError

if TYPE_CHECKING:
    from graphopt.driver.tuning import Tuning
    from graphopt.proof.tolerance import Tolerance

LEVELS = ("O0", "O1", "O2", "O3")

Model = Annotated[Path, typer.Argument(help="The ONNX model.", metavar="MODEL.onnx", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
Load = Annotated[
    list[str] | None,
    typer.Option(
        "--load",
        metavar="MODULE",
        help="Import this Python module or file first and register its passes. May be repeated.",
        show_default=False,
    ),
]
Passes = Annotated[
    str | None,
    typer.Option(
        "--passes",
        "-p",
        metavar="PIPELINE",
        help="Passes to run: a named pipeline, or text such as 'fold-constants,fixpoint(fuse-conv-bn)'. "
        "`graphopt passes` lists both.",
        show_default=False,
    ),
]
InputShapes = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        "-i",
        metavar="NAME:SHAPE",
        help="Fix the shape of an input, e.g. x:1x3x224x224. May be repeated. "
        "Without it, dynamic dimensions stay dynamic.",
        show_default=False,
    ),
]
InputFile = Annotated[
    Path | None,
    typer.Option(
        "--inputs",
        metavar="FILE.npz",
        help="Real inputs: one array per input of the model, by name. By default, inputs are generated.",
        show_default=False,
    ),
]
Samples = Annotated[
    Path | None,
    typer.Option(
        "--samples",
        metavar="DATA",
        help="Real samples, for lossy passes and --verify: an .npz or .npy file with a leading axis over samples, "
        "a folder of such files with one sample each, or a folder of images (with --preprocess).",
        show_default=False,
    ),
]
Validate = Annotated[
    Path | None,
    typer.Option(
        "--validate",
        metavar="DATA",
        help="Samples with expected results: an array `labels`, or one array per output, by name.",
        show_default=False,
    ),
]
Metric = Annotated[
    str | None,
    typer.Option(
        "--metric",
        metavar="NAME",
        help="What lossy passes must preserve: error-mean, error-p99, error-max, sqnr, cosine, top1, accuracy, or your "
        "own module:function.  [default: error-mean]",
        show_default=False,
    ),
]
MaxDrop = Annotated[
    str | None,
    typer.Option(
        "--max-drop",
        metavar="LOSS",
        help="How much of the metric lossy passes may lose: 1% or 0.01, measured on --validate, else on --samples.",
        show_default=False,
    ),
]
PreprocessRule = Annotated[
    str | None,
    typer.Option(
        "--preprocess",
        metavar="RULE",
        help="How images become inputs: `imagenet`, or e.g. 'size=224x224,mean=[0.5,0.5,0.5],std=[0.5,0.5,0.5]'.",
        show_default=False,
    ),
]
Level = Annotated[
    int | None,
    typer.Option(
        "-O",
        help="How much to optimize: the named pipelines O0 to O3 (instead of --passes).  [default: 2]",
        min=0,
        max=3,
        show_default=False,
    ),
]
Verify = Annotated[
    bool,
    typer.Option(
        "--verify", help="Compare the numbers after each pass in ONNX Runtime; exit status 1 if they are wrong."
    ),
]
PassLimit = Annotated[
    int | None,
    typer.Option(help="Stop after this many rewrites (to find a faulty one).", min=0, show_default=False),
]
PrintChanged = Annotated[bool, typer.Option("--print-changed", help="Print what each pass changed, as text on stderr.")]
Reproducer = Annotated[
    Path | None,
    typer.Option(
        help="If a pass fails, write the model before it and a command that repeats the failure into this folder.",
        metavar="FOLDER",
        show_default=False,
    ),
]
ErrorAllowed = Annotated[
    float | None,
    typer.Option(
        "--tolerance",
        help="Allowed error, relative to each output's largest value. The default depends on the output's "
        "type: 1e-4 for float32, 1e-2 for float16, 0 for integers; 5e-2 if the model rounds to 8 bits.",
        show_default=False,
    ),
]
Tune = Annotated[
    str | None,
    typer.Option(
        "--tune",
        metavar="BUDGET",
        help="Measure which kernels are fastest first, for a time (60s, 5m) or a number of measurements (200). "
        "Without it, earlier measurements are used; `off` ignores these too.",
        show_default=False,
    ),
]
Rpc = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT", help="Measure on another machine, through this TVM RPC tracker.", show_default=False
    ),
]
RpcKey = Annotated[
    str | None,
    typer.Option(metavar="KEY", help="The key of the device at the tracker.", show_default=False),
]
Records = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Where to keep measurements, instead of your cache folder.",
        show_default=False,
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Seed for generated inputs.", min=0)]


def seconds(limit: str | None) -> float | None:
    """Return the seconds of a `--time-limit`. Raises InputError for text that is not a time."""
    from graphopt.driver.deadline import parse_limit

    return parse_limit(limit)


def parse_shapes(texts: list[str] | None) -> dict[str, tuple[int, ...]]:
    """Parse input shapes: `["x:1x3x224x224"]` gives `{"x": (1, 3, 224, 224)}`. Raises InputError for invalid text."""
    shapes: dict[str, tuple[int, ...]] = {}
    for text in texts or ():
        name, colon, dims = text.rpartition(":")
        sizes = dims.split("x") if dims else []
        if not colon or not name or not all(size.isdecimal() and int(size) > 0 for size in sizes):
            raise InputError(
                f"cannot read the input shape '{text}'",
                remedy="Write the input's name, a colon, and positive sizes joined by 'x': x:1x3x224x224.",
            )
        if name in shapes:
            raise InputError(f"the shape of input '{name}' is given twice")
        shapes[name] = tuple(int(size) for size in sizes)
    return shapes


def allowed_error(tolerance: float | None) -> Tolerance | None:
    """Return the tolerance given with `--tolerance`. Raises InputError if it would accept anything."""
    from graphopt.proof.tolerance import Tolerance

    if tolerance is None:
        return None
    try:
        return Tolerance.uniform(tolerance)
    except ValueError as error:
        raise InputError(str(error), where="--tolerance") from None


def choose_tuning(tune: str | None, records: Path | None, rpc: str | None, rpc_key: str | None) -> Tuning:
    """Return what the tuning options request. Raises InputError for invalid values and useless combinations."""
    from graphopt.driver.tuning import Remote, Tuning

    made = Tuning.of(tune, records)
    if made.budget is None and (rpc or rpc_key):
        raise InputError("--rpc says where to measure, but nothing is measured", remedy="Add --tune BUDGET.")
    if records is not None and not made.use_records:
        raise InputError("--records names measurements, but --tune off uses none")
    if rpc_key and not rpc:
        raise InputError(
            "--rpc-key names a device of a tracker, but there is no tracker",
            remedy="Name the tracker with --rpc HOST:PORT.",
        )
    return dataclasses.replace(made, remote=Remote.parse(rpc, rpc_key or "") if rpc else None)


def choose_pipeline(passes: str | None, level: int | None) -> str:
    """Return the text of `--passes`, or else the named pipeline of the `-O` level.

    Raises PipelineError if both are given.
    """
    if passes is None:
        return LEVELS[2 if level is None else level]
    if level is not None:
        raise PipelineError(
            f"--passes and -O{level} contradict each other",
            remedy=f"Give one of them; a pipeline may begin with the name {LEVELS[level]}.",
        )
    return passes


def evaluation(
    samples: Path | None, validate: Path | None, metric: str | None, max_drop: str | None, preprocess: str | None
) -> dict[str, Any]:
    """Return the arguments of `optimize` and `compile` that say how lossy passes are evaluated.

    Raises InputError for an option about data without the data that it refers to.
    """
    if samples is None and validate is None:
        for option, value in (("--metric", metric), ("--max-drop", max_drop), ("--preprocess", preprocess)):
            if value is not None:
                raise InputError(f"{option} needs data, and none is given", remedy="Add --samples or --validate.")
    return {
        "samples": samples,
        "validation": validate,
        "metric": metric,
        "budget": max_drop,
        "preprocess": preprocess,
    }


def check_inputs_are_used(inputs: Path | None, verify: bool, samples: Path | None = None) -> None:
    """Raise InputError if inputs are given that nothing would use."""
    if inputs is not None and samples is not None:
        raise InputError("--inputs and --samples contradict each other", remedy="Give one of them.")
    if inputs is not None and not verify:
        raise InputError("--inputs is used only by --verify", remedy="Add --verify, or leave --inputs out.")


def load_modules(names: list[str] | None) -> None:
    """Import the modules of `--load`, so that their passes are known."""
    from graphopt import registry

    if names and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does: the user's module is most likely there
    for name in names or ():
        registry.load_module(name)
