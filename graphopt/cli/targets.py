"""`graphopt targets`: lists the targets, and what compiling for them needs."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from graphopt.util.codec import encode
from graphopt.util.tables import Table

from .options import Json
from .output import Output

NameArgument = Annotated[
    str | None, typer.Argument(help="Show one target in full.", metavar="[NAME]", show_default=False)
]


def targets(
    name: NameArgument = None,
    as_json: Json = False,
) -> None:
    """List the targets that can be compiled for.

    Also shows what compiling for each needs, and whether it is installed.

    \b
    A target is a name with an optional model after a colon: host, x86, x86:znver4, arm:cortex-a76, cuda:sm_90.
    A board is added with a file: `--target ./my-board.toml`.

    \b
    Examples:
        graphopt targets
        graphopt targets arm:cortex-a76
    """
    from graphopt.driver import backend
    from graphopt.hardware import target

    output = Output(as_json)
    compiler = backend.load()
    described: dict[str, dict[str, Any]] = {}
    for key in [name] if name else target.names():
        found = target.load(key)
        needs = [{"name": r.name, "met": r.met, "remedy": r.remedy} for r in compiler.probe(found)]
        described[key] = {**encode(found), "runs_here": found.runs_here(), "needs": needs}
    table = Table("targets", ("target", "summary", "compiles", "runs here"))
    for key, facts in described.items():
        missing = [need["name"] for need in facts["needs"] if not need["met"]]
        runs = "yes" if facts["runs_here"] else "no"
        if facts["kind"] == "cuda":
            runs = "with a GPU" if facts["runs_here"] else "no"
        table.add(key, facts["summary"], f"needs {', '.join(missing)}" if missing else "yes", runs)
    output.table(table)
    if name:
        output.table(_facts(described[name]))
    output.table(_needs(described))
    output.result({"targets": described})


def _facts(described: dict[str, Any]) -> Table:
    table = Table("description", ("property", "value"))
    for key, value in described.items():
        if key not in ("needs", "runs_here", "name", "summary"):
            table.add(key, ", ".join(value) if isinstance(value, list) else str(value))
    return table


def _needs(described: dict[str, dict[str, Any]]) -> Table:
    """Return one row for each thing that compiling needs, with the targets that need it."""
    table = Table("what compiling needs", ("needed", "for", "here", "what to do"))
    families: dict[str, dict[str, None]] = {}
    needs: dict[str, dict[str, Any]] = {}
    for key, facts in described.items():
        for need in facts["needs"]:
            needs[need["name"]] = need
            families.setdefault(need["name"], {})[key.partition(":")[0]] = None
    for name, need in needs.items():
        table.add(name, ", ".join(families[name]), "yes" if need["met"] else "no", need["remedy"] or "-")
    return table
