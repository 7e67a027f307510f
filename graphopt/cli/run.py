"""`graphopt run`: run an artifact on the user's inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphopt.tables import Table

from .arrays import describe_array, read_arrays, write_arrays
from .options import Json
from .output import Output


def run(
    artifact: Annotated[Path, typer.Argument(help="The compiled model.", metavar="MODEL.gopt", show_default=False)],
    inputs: Annotated[
        Path,
        typer.Option(
            help="One array for each input of the model, by its name.", metavar="FILE.npz", show_default=False
        ),
    ],
    outputs: Annotated[
        Path | None,
        typer.Option(help="Where to write the outputs.", metavar="FILE.npz", show_default=False),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads to use; all cores by default.", min=1, show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Run a compiled model on inputs from a file.

    \b
    Example:
        python -c "import numpy; numpy.savez('x.npz', x=numpy.zeros((1, 3, 224, 224), 'float32'))"
        graphopt run model.gopt --inputs x.npz --outputs y.npz
    """
    from graphopt import runtime

    output = Output(as_json)
    arrays = read_arrays(inputs)
    session = runtime.load(artifact, threads=threads)
    results = session.run(arrays)
    if outputs:
        write_arrays(outputs, results)
    described = {name: describe_array(array) for name, array in results.items()}
    table = Table("outputs", ("output", "type", "min", "max", "mean"), right=frozenset({"min", "max", "mean"}))
    for name, facts in described.items():
        dims = ",".join(map(str, facts["shape"]))
        numbers = (facts.get(key) for key in ("min", "max", "mean"))
        table.add(name, f"{facts['dtype']}[{dims}]", *("-" if n is None else f"{n:.6g}" for n in numbers))
    output.table(table)
    if outputs:
        output.line(f"\nwrote {outputs}")
    output.result({"outputs": described, "file": str(outputs) if outputs else None})
