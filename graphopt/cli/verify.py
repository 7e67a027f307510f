"""`graphopt verify`: checks that a model still computes what the original does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphopt.errors import InputError
from graphopt.util.tables import Table

from .models import is_artifact, open_model
from .options import ErrorAllowed, InputFile, InputShapes, Json, PreprocessRule, Seed, allowed_error, parse_shapes
from .output import Output

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from graphopt.ir import Model
    from graphopt.proof.oracle import Reference
    from graphopt.proof.spread import OutputErrors
    from graphopt.proof.tolerance import Comparison, Difference


CandidateArgument = Annotated[
    Path, typer.Argument(help="What to check: a compiled model (.gopt) or a model (.onnx).", show_default=False)
]
OriginalArgument = Annotated[Path, typer.Argument(help="The original model.", metavar="MODEL.onnx", show_default=False)]
SamplesOption = Annotated[
    str, typer.Option(help="The number of generated inputs to compare, or a file or folder of real samples.")
]
ThreadsOption = Annotated[int, typer.Option(help="Threads to use.", min=1)]


def verify(
    candidate: CandidateArgument,
    original: OriginalArgument,
    inputs: InputFile = None,
    shapes: InputShapes = None,
    samples: SamplesOption = "3",
    preprocess: PreprocessRule = None,
    seed: Seed = 0,
    tolerance: ErrorAllowed = None,
    threads: ThreadsOption = 1,
    as_json: Json = False,
) -> None:
    """Check that a model computes what its original does.

    The compiled or optimized model is compared with the original model in ONNX Runtime, on real or generated inputs.

    Exit status 1 if any output differs by more than the tolerance.

    \b
    Examples:
        graphopt verify model.gopt model.onnx
        graphopt verify smaller.onnx model.onnx --inputs x.npz
        graphopt verify model.gopt model.onnx --samples pictures --preprocess imagenet
    """
    from graphopt import io
    from graphopt.data.inputs import Sample, compare_with_oracle, load_npz
    from graphopt.proof.oracle import Reference
    from graphopt.proof.spread import OutputErrors

    output = Output(as_json)
    allowed = allowed_error(tolerance)
    model = io.load(original)
    given = load_npz(inputs, model) if inputs else None
    fixed = {**_fixed_shapes(candidate), **parse_shapes(shapes)}
    runner = _runner(candidate, threads)
    errors, worst = OutputErrors(), _Worst()
    with Reference(model) as reference:
        for feed in _feeds(model, samples, preprocess, given, fixed, seed, reference):
            sample = Sample(dict(feed), reference.run(feed))
            outputs = runner(feed)
            errors.add(sample.outputs, outputs)
            worst.add(compare_with_oracle(model, sample, outputs, allowed, empty=errors.samples > 1))
    ok = worst.ok
    _show(output, errors, worst.differences, ok)
    if not ok:
        raise typer.Exit(1)


def _feeds(
    model: Model,
    samples: str,
    preprocess: str | None,
    given: Mapping[str, Any] | None,
    shapes: Mapping[str, Sequence[int]],
    seed: int,
    reference: Reference,
) -> Iterator[Mapping[str, Any]]:
    """Yield the inputs for both models: the user's inputs, the user's samples, or generated ones."""
    from graphopt.data.inputs import generate, verification_samples
    from graphopt.data.samples import open_samples

    if not samples.isdecimal():
        if given is not None:
            raise InputError("--inputs and --samples contradict each other", remedy="Give one of them.")
        yield from open_samples(Path(samples), model, preprocess)
        return
    if int(samples) < 1 or preprocess is not None:
        raise InputError(
            "there is nothing to compare on", remedy="Give --samples a number above 0, or a file or folder."
        )
    if given is not None:
        yield generate(model, seed=seed, shapes=shapes, given=given, reference=reference).inputs
        return
    for sample in verification_samples(model, seed=seed + 1, shapes=shapes, reference=reference):
        yield sample.inputs
    for number in range(1, int(samples)):
        yield generate(model, seed=seed + 1 + number, shapes=shapes, reference=reference).inputs


class _Worst:
    """The worst difference of each output over all samples."""

    def __init__(self) -> None:
        self.differences: dict[str, Difference] = {}

    @property
    def ok(self) -> bool:
        return all(difference.ok for difference in self.differences.values())

    def add(self, comparison: Comparison) -> None:
        for difference in comparison.differences:
            known = self.differences.get(difference.name)
            if known is None or (difference.ok, -difference.error) < (known.ok, -known.error):
                self.differences[difference.name] = difference


def errors_table(samples: int, outputs: Mapping[str, Mapping[str, Any]]) -> Table:
    """The errors of each output over all samples, relative to the output's largest value."""
    columns = ("output", "elements", "mean", "99 %", "largest")
    table = Table(f"relative errors over {samples} samples", columns, right=frozenset(columns[1:]))
    for name, figures in outputs.items():
        shown = [f"{figures[key]:.2e}" for key in ("mean", "p99", "max")]
        table.add(name, f"{int(figures['elements']):,}", *shown)
    return table


def _fixed_shapes(candidate: Path) -> dict[str, tuple[int, ...]]:
    """Return the input shapes that an artifact was compiled for."""
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


def _show(output: Output, errors: OutputErrors, worst: Mapping[str, Difference], ok: bool) -> None:
    numbers = ("mean", "99 %", "error", "allowed")
    table = Table("outputs", ("output", *numbers, "", "worst element"), right=frozenset(numbers))
    results = {}
    figures = errors.to_json()
    for name, difference in worst.items():
        where = difference.problem
        if difference.expected is not None:
            place = ",".join(map(str, difference.index))
            where = f"{where} [{place}]: {difference.expected} expected, {difference.got} found".strip()
        shown = figures.get(name, {})
        spread = [f"{shown[key]:.2e}" if shown else "" for key in ("mean", "p99")]
        verdict = "ok" if difference.ok else "WRONG"
        table.add(name, *spread, f"{difference.error:.2e}", f"{difference.allowed:.0e}", verdict, where)
        results[name] = {
            "error": difference.error,
            "mean": shown.get("mean"),
            "p99": shown.get("p99"),
            "allowed": difference.allowed,
            "ok": difference.ok,
            "problem": difference.problem,
        }
    output.table(table)
    elements = sum(spread["elements"] for spread in figures.values())
    verdict = "the same within the tolerance" if ok else "NOT the same"
    output.line(f"\n{verdict}: {elements:,} elements compared for {errors.samples} inputs")
    output.result({"ok": ok, "samples": errors.samples, "elements": elements, "outputs": results})
