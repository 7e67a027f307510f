"""Options that several commands share, and the parsing of their values."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphopt.errors import InputError

if TYPE_CHECKING:
    from graphopt.tolerance import Tolerance

LEVELS = ("O0", "O1", "O2", "O3")

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
Level = Annotated[
    int,
    typer.Option(
        "-O",
        help="How much to optimize: the named pipelines O0 to O3, when --passes is not given.",
        min=0,
        max=3,
    ),
]
Verify = Annotated[
    bool,
    typer.Option("--verify", help="Compare the numbers after each pass with ONNX Runtime; exit status 1 if wrong."),
]
PassLimit = Annotated[
    int | None,
    typer.Option(help="Stop after this many rewrites (to find a wrong one).", min=0, show_default=False),
]
PrintChanged = Annotated[bool, typer.Option("--print-changed", help="Print what each pass changed, as text on stderr.")]
Reproducer = Annotated[
    Path | None,
    typer.Option(
        help="If a pass fails, write the model before it and the command to repeat it into this folder.",
        metavar="FOLDER",
        show_default=False,
    ),
]
ErrorAllowed = Annotated[
    float | None,
    typer.Option(
        "--tolerance",
        help="Error allowed, relative to each output's largest value. By default it depends on the output's "
        "type: 1e-4 for float32, 1e-2 for float16, 0 for integers.",
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


def allowed_error(tolerance: float | None) -> Tolerance | None:
    """The tolerance that `--tolerance` asks for. Raises InputError where it would accept anything."""
    from graphopt.tolerance import Tolerance

    if tolerance is None:
        return None
    try:
        return Tolerance.uniform(tolerance)
    except ValueError as error:
        raise InputError(str(error), where="--tolerance") from None


def choose_pipeline(passes: str | None, level: int) -> str:
    """The text of `--passes`, or else the named pipeline of the `-O` level."""
    return LEVELS[level] if passes is None else passes


def load_modules(names: list[str] | None) -> None:
    """Import the modules of `--load`, so that their passes are known."""
    from graphopt import registry

    if names and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does: the user's module is most likely here
    for name in names or ():
        registry.load_module(name)
