"""`graphopt passes`: lists the passes and named pipelines."""

from __future__ import annotations

import dataclasses
import difflib
from typing import Annotated, Any

import typer

from graphopt.errors import PipelineError
from graphopt.util.tables import Table

from .options import Json, Load, load_modules
from .output import Output

NameArgument = Annotated[
    str | None,
    typer.Argument(help="Show one pass or named pipeline in full.", metavar="[NAME]", show_default=False),
]


def passes(
    name: NameArgument = None,
    load: Load = None,
    as_json: Json = False,
) -> None:
    """List the passes and the named pipelines.

    \b
    Fidelity says how close the results are to the original:
        exact   bit-identical
        float   only rounding and the order of summation change
        lossy   an approximation, run only on request

    \b
    Examples:
        graphopt passes
        graphopt passes fuse-conv-bn
        graphopt passes --load my_passes.py
    """
    from graphopt import registry

    load_modules(load)
    output = Output(as_json)
    found, pipelines = registry.passes(), registry.pipelines()
    described = {key: _describe(found[key]) for key in sorted(found)}
    if name:
        _show_one(output, name, described, pipelines)
        return
    table = Table("passes", ("pass", "fidelity", "options", "summary"))
    for key, facts in described.items():
        options = _options_text(facts, " ")
        table.add(key, facts["fidelity"], options, facts["summary"])
    output.table(table)
    named = Table("named pipelines", ("pipeline", "summary"))
    for key, pipeline in sorted(pipelines.items()):
        named.add(key, pipeline.summary)
    output.table(named)
    output.line("\n`graphopt passes NAME` shows one of them in full.")
    output.result(
        {
            "passes": described,
            "pipelines": {key: dataclasses.asdict(pipeline) for key, pipeline in sorted(pipelines.items())},
        }
    )


def _describe(cls: Any) -> dict[str, Any]:
    return {
        "summary": cls.summary(),
        "fidelity": cls.fidelity.name.lower(),
        "options": {field.name: field.default for field in dataclasses.fields(cls)},
        "documentation": _dedent(cls.__doc__ or ""),
        "module": cls.__module__,
    }


def _options_text(facts: dict[str, Any], between: str) -> str:
    """Return the options with their defaults, as in pipeline text."""
    from graphopt.rewriting.passes import format_option

    return between.join(f"{option}={format_option(default)}" for option, default in facts["options"].items())


def _dedent(text: str) -> str:
    import inspect

    return inspect.cleandoc(text)


def _show_one(output: Output, name: str, described: dict[str, dict[str, Any]], pipelines: dict[str, Any]) -> None:
    if name in described:
        facts = described[name]
        options = _options_text(facts, ", ")
        output.line(f"{name}: {facts['documentation']}\n")
        output.line(f"fidelity: {facts['fidelity']}\noptions: {options or 'none'}\nmodule: {facts['module']}")
        output.result({name: facts})
    elif name in pipelines:
        pipeline = pipelines[name]
        output.line(f"{name}: {pipeline.summary}\n\n{pipeline.text}")
        output.result({name: dataclasses.asdict(pipeline)})
    else:
        near = difflib.get_close_matches(name, [*described, *pipelines], 1, 0.5)
        raise PipelineError(
            f"there is no pass or pipeline '{name}'",
            remedy=f"Did you mean '{near[0]}'?" if near else "`graphopt passes` lists them all.",
        )
