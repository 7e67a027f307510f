"""Options that several commands share, and the parsing of their values."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphopt.errors import InputError

MODEL_FORMAT = "an ONNX model (model.onnx)"

Model = Annotated[Path, typer.Argument(help="The ONNX model.", metavar="MODEL.onnx", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
Load = Annotated[
    list[str] | None,
    typer.Option(
        "--load",
        metavar="MODULE",
        help="Import this Python module or file first, for the passes in it. May be repeated.",
        show_default=False,
    ),
]
Passes = Annotated[
    str | None,
    typer.Option(
        "--passes",
        "-p",
        metavar="PIPELINE",
        help="Passes to run: a named pipeline, or text like 'fold-constants,fixpoint(fuse-conv-bn)'. "
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
        help="Fix the shape of an input, as x:1x3x224x224. May be repeated. "
        "Without it, dynamic dimensions stay dynamic.",
        show_default=False,
    ),
]
InputFile = Annotated[
    Path | None,
    typer.Option(
        "--inputs",
        metavar="FILE.npz",
        help="Real inputs: one array for each input of the model, by its name. Generated without it.",
        show_default=False,
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of generated inputs.", min=0)]


def parse_shapes(texts: list[str] | None) -> dict[str, tuple[int, ...]]:
    """`["x:1x3x224x224"] -> {"x": (1, 3, 224, 224)}`. Raises InputError on text that is not NAME:SHAPE."""
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


def load_modules(names: list[str] | None) -> None:
    """Import the modules of `--load`, so that their passes are known."""
    from graphopt import registry

    for name in names or ():
        registry.load_module(name)
