"""`graphopt tune`: measures which kernels are fastest for a model, for all later compilations."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from graphopt.driver.tuning import DEFAULT_BUDGET
from graphopt.util.tables import Table, format_seconds

from . import options
from .output import Output

if TYPE_CHECKING:
    from graphopt.driver.tuning import Tuned

_NUMBERS = ("calls", "default", "best", "gain", "measured", "failed")


TargetOption = Annotated[
    str, typer.Option("--target", "-t", help="The target to tune for; `graphopt targets` lists all.")
]
BudgetOption = Annotated[
    str,
    typer.Option("--budget", "-b", help="How much to spend: a time (60s, 5m) or a number of measurements (200)."),
]
SearchOption = Annotated[
    bool,
    typer.Option("--search", help="Also search for schedules of everything else: reductions, transposes, softmax."),
]


def tune(
    model: options.Model,
    target: TargetOption = "host",
    budget: BudgetOption = DEFAULT_BUDGET,
    search: SearchOption = False,
    passes: options.Passes = None,
    level: options.Level = None,
    shapes: options.InputShapes = None,
    rpc: options.Rpc = None,
    rpc_key: options.RpcKey = None,
    records: options.Records = None,
    load: options.Load = None,
    as_json: options.Json = False,
) -> None:
    """Find the fastest kernels for a model by measuring.

    Every distinct size of convolution or matmul in the model is a workload. Each is measured as graphopt would compile
    it by default, then with other tiles and other algorithms, in the order of their share of the model's time. The
    results are kept, and `graphopt compile` uses them from then on, for this model and for any other with the same
    sizes. A run that is interrupted or out of budget can be continued. All other operators are compiled with generic
    schedules; --search spends a part of the budget on better ones, with the search of TVM's MetaSchedule.

    \b
    Examples:
        graphopt tune model.onnx --input x:1x3x224x224
        graphopt tune model.onnx --budget 1h --json
        graphopt tune model.onnx --target arm:cortex-a76 --rpc tracker:9190 --rpc-key pi5
    """
    from graphopt import io
    from graphopt.driver import compiling as compiler

    from .watch import observers

    tuning = dataclasses.replace(options.choose_tuning(budget, records, rpc, rpc_key), search=search)
    options.load_modules(load)
    output = Output(as_json)
    before = io.load(model)
    with output.progress() as progress:
        found = compiler.tune(
            before,
            target,
            options.choose_pipeline(passes, level),
            tuning=tuning,
            inputs=options.parse_shapes(shapes),
            observers=observers(progress, 0.02, 0.1, None, False),
            progress=progress,
        )
    _show(output, found)
    output.result({"workloads": [dataclasses.asdict(one) for one in found]})


def _show(output: Output, found: list[Tuned]) -> None:
    if not found:
        output.line(
            "nothing to tune: the model has no convolutions or matmuls of known sizes (--input fixes sizes, "
            "--search tunes other functions)"
        )
        return
    columns = ("workload", *_NUMBERS, "fastest")
    table = Table("measurements", columns, right=frozenset(_NUMBERS))
    for one in found:
        times = ["", "", ""]
        if one.default_seconds and one.best_seconds:
            gain = one.default_seconds / one.best_seconds
            times = [format_seconds(one.default_seconds), format_seconds(one.best_seconds), f"{gain:.2f}"]
        measured = "known" if one.known else str(one.measured)
        table.add(one.workload, one.calls, *times, measured, one.failed, one.best)
    output.table(table)
    timed = [one for one in found if one.default_seconds and one.best_seconds]
    before = sum(one.calls * (one.default_seconds or 0) for one in timed)
    after = sum(one.calls * (one.best_seconds or 0) for one in timed)
    if after:
        output.line(
            f"\n{len(timed)} of {len(found)} workloads: {format_seconds(before)} per run before, "
            f"{format_seconds(after)} now, {before / after:.2f} times faster"
        )
