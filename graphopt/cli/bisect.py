"""`graphopt bisect`: finds the pass, and which of its rewrites, breaks a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options
from .output import Output

if TYPE_CHECKING:
    from graphopt.ir import Model
    from graphopt.proof.checks import Check


TargetOption = Annotated[
    str | None,
    typer.Option("--target", "-t", help="The target that passes may specialize for.", show_default=False),
]
CheckOption = Annotated[
    str | None,
    typer.Option(
        help="A command that checks a model: exit status 0 means good, any other bad. {model} stands for the path "
        "of the model. By default, the numbers are compared with ONNX Runtime.",
        metavar="COMMAND",
        show_default=False,
    ),
]


def bisect(
    model: options.Model,
    passes: options.Passes = None,
    level: options.Level = None,
    shapes: options.InputShapes = None,
    target: TargetOption = None,
    check: CheckOption = None,
    inputs: options.InputFile = None,
    seed: options.Seed = 0,
    tolerance: options.ErrorAllowed = None,
    load: options.Load = None,
    as_json: options.Json = False,
) -> None:
    """Find the pass and the rewrite that break a model.

    A binary search over the passes, then over the rewrites of the faulty pass, finds the first one after which the
    model no longer computes the same.

    Exit status 0 if the whole pipeline is correct, 1 if a faulty step was found.

    \b
    Examples:
        graphopt bisect model.onnx
        graphopt bisect model.onnx --passes default,my-pass --load my_passes.py
        graphopt bisect model.onnx --check 'python check.py {model}'
    """
    from graphopt import io
    from graphopt.hardware.target import load as load_target
    from graphopt.proof.bisect import bisect as find
    from graphopt.rewriting.pipeline import Pipeline
    from graphopt.rewriting.shapes import fix_shapes

    options.load_modules(load)
    output = Output(as_json)
    opened = io.load(model)
    fix_shapes(opened, options.parse_shapes(shapes))
    culprit = find(
        opened,
        Pipeline.parse(options.choose_pipeline(passes, level)),
        _check(opened, check, inputs, seed, tolerance),
        target=load_target(target) if target else None,
        progress=output.note,
    )
    if culprit is None:
        output.line("every step of the pipeline passes the check")
        output.result({"culprit": None})
        return
    output.line(f"culprit: {culprit}")
    found: dict[str, Any] = {
        "pass": culprit.pass_name,
        "step": culprit.step.index,
        "path": culprit.step.path,
        "complaint": culprit.complaint,
        "rewrite": None,
    }
    if culprit.rewrite is not None:
        rewrite = culprit.rewrite
        found["rewrite"] = {"number": rewrite.number, "node": rewrite.node, "origin": list(rewrite.origin)}
    output.result({"culprit": found})
    raise typer.Exit(1)


def _check(model: Model, command: str | None, inputs: Path | None, seed: int, tolerance: float | None) -> Check:
    from graphopt.data import inputs as generated
    from graphopt.proof.checks import command_check, samples_check
    from graphopt.proof.standard import standard_of

    if command is not None:
        return command_check(command)
    given = generated.load_npz(inputs, model) if inputs else None
    samples = generated.verification_samples(model, seed=seed, given=given)
    inputs_, outputs = [sample.inputs for sample in samples], [sample.outputs for sample in samples]
    return samples_check(inputs_, outputs, options.allowed_error(tolerance) or standard_of(model))
