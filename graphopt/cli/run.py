"""`graphopt run`: runs an artifact on the user's inputs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphopt.data.npz import read_npz, write_npz
from graphopt.util.tables import Table

from .options import Json
from .output import Output

if TYPE_CHECKING:
    import numpy as np


ArtifactArgument = Annotated[Path, typer.Argument(help="The compiled model.", metavar="MODEL.gopt", show_default=False)]
InputsOption = Annotated[
    Path,
    typer.Option(help="One array per input of the model, by name.", metavar="FILE.npz", show_default=False),
]
OutputsOption = Annotated[
    Path | None,
    typer.Option(help="Where to write the outputs.", metavar="FILE.npz", show_default=False),
]
ThreadsOption = Annotated[
    int | None, typer.Option(help="Threads to use; all cores by default.", min=1, show_default=False)
]


def run(
    artifact: ArtifactArgument,
    inputs: InputsOption,
    outputs: OutputsOption = None,
    threads: ThreadsOption = None,
    as_json: Json = False,
) -> None:
    """Run a compiled model on inputs from a file.

    \b
    Example:
        python -c "import numpy; numpy.savez('x.npz', x=numpy.zeros((1, 3, 224, 224), 'float32'))"
        graphopt run model.gopt --inputs x.npz --outputs y.npz
    """
    from graphopt import runtime
    from graphopt.runtime.inputs import dtype_of

    output = Output(as_json)
    session = runtime.load(artifact, threads=threads)
    arrays = read_npz(inputs, {info.name: dtype_of(info.dtype) for info in session.inputs})
    results = session.run(arrays)
    if outputs:
        write_npz(outputs, results)
    described = {name: _describe(array) for name, array in results.items()}
    table = Table("outputs", ("output", "type", "min", "max", "mean"), right=frozenset({"min", "max", "mean"}))
    for name, facts in described.items():
        dims = ",".join(map(str, facts["shape"]))
        numbers = (facts.get(key) for key in ("min", "max", "mean"))
        table.add(name, f"{facts['dtype']}[{dims}]", *("-" if n is None else f"{n:.6g}" for n in numbers))
    output.table(table)
    if outputs:
        output.line(f"\nwrote {outputs}")
    output.result({"outputs": described, "file": str(outputs) if outputs else None})


def _describe(array: np.ndarray) -> dict[str, Any]:
    """Return dtype, shape and, for numbers, range and mean (null for an empty array), as JSON types."""
    import numpy as np

    described: dict[str, Any] = {"dtype": str(array.dtype), "shape": list(array.shape)}
    if array.size and array.dtype.kind in "fiub":
        wide = array.astype(np.float64)
        for name, value in (("min", wide.min()), ("max", wide.max()), ("mean", wide.mean())):
            described[name] = float(value) if np.isfinite(value) else None
    return described
