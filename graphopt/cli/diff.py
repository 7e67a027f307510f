"""`graphopt diff`: what changed between two models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphopt.util.tables import format_bytes

from .models import open_model
from .options import Json
from .output import Output

BeforeArgument = Annotated[Path, typer.Argument(help="The first model (.onnx or .gopt).", show_default=False)]
AfterArgument = Annotated[Path, typer.Argument(help="The second model (.onnx or .gopt).", show_default=False)]
LimitOption = Annotated[int, typer.Option(help="Rows per table, 0 for all.", min=0)]


def diff(
    before: BeforeArgument,
    after: AfterArgument,
    limit: LimitOption = 20,
    as_json: Json = False,
) -> None:
    """Show what changed between two models.

    Operators, nodes, weights, opsets and metadata are compared. To compare what the models compute, use
    `graphopt verify`.

    \b
    Example:
        graphopt optimize model.onnx -o smaller.onnx
        graphopt diff model.onnx smaller.onnx
    """
    from graphopt.analysis.diff import compare

    output = Output(as_json)
    difference = compare(open_model(before), open_model(after))
    if difference.is_empty:
        output.line("no difference")
    for table in difference.tables(limit or None):
        output.table(table)
    old, new = difference.bytes
    if old != new:
        output.line(f"\nweights: {format_bytes(old)} before, {format_bytes(new)} after")
    output.result(difference.to_json())
