"""`graphopt verify`: does it still compute what the original computes?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphopt.util.tables import Table

from .models import is_artifact, open_model
from .options import ErrorAllowed, InputFile, InputShapes, Json, Seed, allowed_error, parse_shapes
from .output import Output

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from graphopt.ir import Model
    from graphopt.proof.tolerance import Comparison


def verify(
    candidate: Annotated[
        Path, typer.Argument(help="What to check: a compiled model (.gopt) or a model (.onnx).", show_default=False)
    ],
    original: Annotated[Path, typer.Argument(help="The original model.", metavar="MODEL.onnx", show_default=False)],
    inputs: InputFile = None,
    shapes: InputShapes = None,
    samples: Annotated[int, typer.Option(help="How many generated inputs to compare.", min=1)] = 3,
    seed: Seed = 0,
    tolerance: ErrorAllowed = None,
    threads: Annotated[int, typer.Option(help="Threads to use.", min=1)] = 1,
    as_json: Json = False,
) -> None:
    """Check that a model computes what its original does.

    The compiled or optimized model is compared with the original in ONNX Runtime, on real or generated inputs.

    Exit status 1 if any output differs by more than the tolerance.

    \b
    Examples:
        graphopt verify model.gopt model.onnx
        graphopt verify smaller.onnx model.onnx --inputs x.npz
    """
    from graphopt import io
    from graphopt.data import inputs as generated

    output = Output(as_json)
    allowed = allowed_error(tolerance)
    model = io.load(original)
    given = generated.load_npz(inputs, model) if inputs else None
    fixed = {**_fixed_shapes(candidate), **parse_shapes(shapes)}
    runner = _runner(candidate, threads)
    comparisons = []
    for number in range(1 if given else samples):
        sample = generated.generate(model, seed=seed + number, shapes=fixed, given=given)
        comparisons.append(generated.compare_with_oracle(model, sample, runner(sample.inputs), allowed))
    ok = all(comparison.ok for comparison in comparisons)
    _show(output, comparisons, ok)
    if not ok:
        raise typer.Exit(1)


def _fixed_shapes(candidate: Path) -> dict[str, tuple[int, ...]]:
    """The shapes that an artifact insists on."""
    from graphopt.runtime.manifest import read_manifest

    if not is_artifact(candidate):
        return {}
    ports = read_manifest(candidate).inputs
    shapes = {port.name: tuple(dim for dim in port.shape if isinstance(dim, int)) for port in ports}
    return {port.name: shapes[port.name] for port in ports if len(shapes[port.name]) == len(port.shape)}


def _runner(candidate: Path, threads: int) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    from graphopt import runtime
    from graphopt.proof.oracle import Reference

    if is_artifact(candidate):
        return runtime.load(candidate, threads=threads, check="full").run
    model: Model = open_model(candidate)
    return Reference(model, threads=threads).run


def _show(output: Output, comparisons: list[Comparison], ok: bool) -> None:
    table = Table("outputs", ("output", "error", "allowed", "", "worst element"), right=frozenset({"error", "allowed"}))
    worst: dict[str, Any] = {}
    for comparison in comparisons:
        for difference in comparison.differences:
            known = worst.get(difference.name)
            if known is None or (difference.ok, -difference.error) < (known.ok, -known.error):
                worst[difference.name] = difference
    for name, difference in worst.items():
        where = difference.problem
        if difference.expected is not None:
            place = ",".join(map(str, difference.index))
            where = f"{where} [{place}]: {difference.expected} expected, {difference.got} found".strip()
        table.add(
            name,
            f"{difference.error:.2e}",
            f"{difference.allowed:.0e}",
            "ok" if difference.ok else "WRONG",
            where,
        )
    output.table(table)
    elements = sum(difference.elements for comparison in comparisons for difference in comparison.differences)
    verdict = "the same within the tolerance" if ok else "NOT the same"
    output.line(f"\n{verdict}: {elements:,} elements compared over {len(comparisons)} inputs")
    output.result(
        {
            "ok": ok,
            "samples": len(comparisons),
            "elements": elements,
            "outputs": {
                name: {
                    "error": difference.error,
                    "allowed": difference.allowed,
                    "ok": difference.ok,
                    "problem": difference.problem,
                }
                for name, difference in worst.items()
            },
        }
    )
