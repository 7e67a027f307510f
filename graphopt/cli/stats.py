"""`graphopt stats`: activation statistics of a model on real data."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphopt.errors import InputError
from graphopt.util.tables import Table

from . import options
from .output import Output

if TYPE_CHECKING:
    from graphopt.compression.accumulators import Accumulator
    from graphopt.compression.statistics import ActivationStatistics


SamplesOption = Annotated[
    Path,
    typer.Option(
        "--samples", metavar="DATA", help="Real inputs, as for `graphopt optimize --samples`.", show_default=False
    ),
]
ValueOption = Annotated[
    list[str] | None,
    typer.Option(
        "--value", metavar="NAME", help="Only values with this name or pattern, e.g. '*relu*'. May be repeated."
    ),
]
KindOption = Annotated[
    list[str] | None,
    typer.Option("--kind", help="range, moments, histogram or channels. May be repeated.  [default: the first three]"),
]
MemoryOption = Annotated[
    str, typer.Option(help="How much memory the observed values of one run may take.", metavar="SIZE")
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", help="Save the statistics in this file.", metavar="FILE.npz|FILE.json", show_default=False
    ),
]
PictureOption = Annotated[
    Path | None,
    typer.Option("--picture", help="Draw the histograms.", metavar="FILE.svg", show_default=False),
]


def stats(
    model: options.Model,
    samples: SamplesOption,
    preprocess: options.PreprocessRule = None,
    value: ValueOption = None,
    kind: KindOption = None,
    memory: MemoryOption = "512MB",
    out: OutOption = None,
    picture: PictureOption = None,
    as_json: options.Json = False,
) -> None:
    """Show ranges and histograms of the values inside a model while it runs on samples.

    Quantization is based on these. Memory is bounded: samples are run one at a time, with as many values as fit.

    \b
    Examples:
        graphopt stats model.onnx --samples calibration.npz
        graphopt stats model.onnx --samples pictures --preprocess imagenet --picture histograms.svg
        graphopt stats model.onnx --samples calibration.npz --value '*relu*' --kind channels --json
    """
    from graphopt import io
    from graphopt.compression.picture import draw
    from graphopt.compression.statistics import collect
    from graphopt.compression.store import digest_of
    from graphopt.data.samples import open_samples

    kinds = kind or ["range", "moments", "histogram"]
    if picture is not None and "histogram" not in kinds:
        raise InputError("--picture draws histograms", remedy="Add --kind histogram.")
    if out is not None and out.suffix not in (".npz", ".json"):
        raise InputError(f"statistics cannot be saved in '{out}'", remedy="Name a file that ends in .npz or .json.")
    output = Output(as_json)
    opened = io.load(model)
    data = open_samples(samples, opened, preprocess)
    with output.progress() as progress:
        found = collect(opened, data, value, kinds, memory=_bytes(memory), progress=progress)
    found.model = digest_of(opened)
    if out is not None:
        found.save(out)
    if picture is not None:
        picture.write_text(draw(found, opened.graph.name or model.name), encoding="utf-8")
    output.table(_table(found))
    output.line(f"\n{found.samples:,} samples in {found.runs} run{'s' if found.runs > 1 else ''} over them")
    output.result(found.to_json())


def _bytes(text: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMG]?)B?", text.strip())
    if found is None or float(found[1]) == 0:
        raise InputError(f"cannot read '{text}' as an amount of memory", remedy="Write it as 512MB or 2GB.")
    return int(float(found[1]) * {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}[found[2]])


def _table(found: ActivationStatistics) -> Table:
    rows = {name: dict(cell for a in kinds.values() for cell in _cells(a)) for name, kinds in found.values.items()}
    columns = list(next(iter(rows.values()), {}))
    table = Table("activations", ("value", *columns), right=frozenset(columns))
    for name, cells in rows.items():
        table.add(name, *cells.values())
    return table


def _cells(accumulator: Accumulator) -> list[tuple[str, str]]:
    """Return the columns and cells of the table for one kind of statistics."""
    from graphopt.compression.accumulators import Channels, Histogram, Moments, Range

    if isinstance(accumulator, Range):
        zeros = accumulator.zeros / max(accumulator.count, 1)
        ends = [("smallest", f"{accumulator.low:.4g}"), ("largest", f"{accumulator.high:.4g}")]
        return [*ends, ("zeros", f"{zeros:.0%}")]
    if isinstance(accumulator, Moments):
        return [("mean", f"{accumulator.mean:.4g}"), ("deviation", f"{accumulator.deviation:.4g}")]
    if isinstance(accumulator, Histogram):
        return [("99.9 % within", f"{accumulator.percentile(99.9):.4g}")]
    assert isinstance(accumulator, Channels)
    dead = int((accumulator.low == accumulator.high).sum())
    return [("channels", str(accumulator.low.size)), ("that never change", str(dead))]
