"""Compile models for this machine with every check on, and run each artifact at several sizes against ONNX Runtime.

    python tools/check_models.py [MODEL ...] [--passes PIPELINE] [--no-verify] [--json FILE]
                                 [--most-seconds 60] [--most-kernel-seconds 10]

MODEL is a name of the catalogue or an ONNX file; all of the catalogue by default. A model with dynamic dimensions is
compiled once and run at all its sizes. One that is known to need an unsupported operator must be declined with an
error that names it. The limits apply to the wall-clock time of compiling a model, without verifying its passes, and to
the CPU time of generating the code of a single kernel.
Exit status: 0 all agree within the limits, 1 one does not, 2 a model is not available.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import graphopt
from graphopt import io
from graphopt.data import inputs
from graphopt.errors import UnsupportedError
from graphopt.proof.oracle import Reference
from graphopt.rewriting.pipeline import Observer
from graphopt.rewriting.report import Report
from graphopt.runtime.artifact import Artifact
from graphopt.util.tables import Table, format_seconds
from tools.catalogue import LACKING, NAMES, Entry, entry
from tools.fetch_models import FetchError

Row = dict[str, Any]


class _Keeper(Observer):
    """Keeps the report that a compilation goes on with."""

    def __init__(self) -> None:
        self.report = Report()

    def end(self, model: graphopt.Model, report: Report) -> None:
        self.report = report


def check(model: Entry, passes: str | None, verify: bool) -> Row:
    """Return the results for one model: the cost of compiling, the largest error at each size, or what failed where."""
    row: Row = {"model": model.name, "errors": [], "failure": None, "declined": None}
    try:
        _compare(model, _compile(model, passes, verify, row), row)
    except graphopt.GraphOptError as error:
        lacks = LACKING.get(model.name)
        expected = isinstance(error, UnsupportedError) and lacks is not None and lacks in str(error)
        row["declined" if expected else "failure"] = f"{type(error).__name__}: {error}"
    except Exception:  # a bug in graphopt: it is shown in full, and the other models are still checked
        row["failure"] = traceback.format_exc()
    return row


def _compile(model: Entry, passes: str | None, verify: bool, row: Row) -> Artifact:
    """Compile, and note the seconds of it all, on the wall and of processors, and of the slowest kernel."""
    keeper = _Keeper()
    before = _processor_seconds()
    artifact = graphopt.compile(model.path, "host", passes, verify=verify, observers=[keeper])
    row["processor_seconds"] = _processor_seconds() - before
    code = keeper.report.code
    assert code is not None
    passing = sum(step.seconds for step in keeper.report.steps)
    stages = {**code.stages, "optimizing": passing}  # without what checks the passes
    stages.pop("measuring the error", None)
    row["seconds"] = sum(stages.values())
    for kernel in code.slowest(1):
        row.update(kernel=kernel.label, kernel_seconds=kernel.seconds)
    return artifact


def _processor_seconds() -> float:
    """Seconds on processors of this process and of those that it waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _compare(model: Entry, artifact: Artifact, row: Row) -> None:
    """Note the error at each size, and the first that is too large."""
    original = io.load(model.path)
    with Reference(model.path) as reference:
        for seed, shapes in enumerate(model.sizes):
            sample = inputs.generate(original, seed=seed, shapes=shapes, reference=reference)
            comparison = inputs.compare_with_oracle(original, sample, artifact.run(sample.inputs))
            row["errors"].append(comparison.error)
            if not comparison.ok and row["failure"] is None:
                row["failure"] = f"at {shapes or 'its own size'}: {comparison.worst}"


def hold(row: Row, most: float | None, most_kernel: float | None) -> None:
    """Make a failure of compiling that took longer than the limits; None: no limit."""
    if row["failure"] is not None or row["declined"] is not None:
        return
    if most is not None and row["seconds"] > most:
        row["failure"] = f"compiling took {format_seconds(row['seconds'])}, and {most:g} s are allowed"
    if most_kernel is not None and row.get("kernel_seconds", 0.0) > most_kernel:
        row["failure"] = (
            f"{row['kernel']} took {format_seconds(row['kernel_seconds'])}, and {most_kernel:g} s are allowed"
        )


def table(rows: Sequence[Row]) -> Table:
    numbers = ("compiled in", "processors", "slowest kernel")
    result = Table("", ("model", *numbers, "error at each size", "agrees"), right=frozenset(numbers))
    for row in rows:
        seconds = (row.get(name) for name in ("seconds", "processor_seconds", "kernel_seconds"))
        errors = ", ".join(f"{error:.1e}" for error in row["errors"])
        agrees = "no" if row["failure"] else "declined" if row["declined"] else "yes"
        result.add(
            row["model"], *("-" if time is None else format_seconds(time) for time in seconds), errors or "-", agrees
        )
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    names = (*NAMES, *LACKING)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"names or files; names: {', '.join(names)}")
    parser.add_argument("--passes", help="the pipeline (default: that of `graphopt compile`)")
    parser.add_argument("--no-verify", action="store_true", help="only compare the compiled code, not each pass")
    parser.add_argument("--most-seconds", type=float, metavar="N", help="fail where compiling takes longer")
    parser.add_argument("--most-kernel-seconds", type=float, metavar="N", help="fail where one kernel's code does")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    options = parser.parse_args(arguments)
    rows = []
    for name in options.models or names:
        try:
            model = entry(name)
        except (FetchError, FileNotFoundError) as error:
            print(error, file=sys.stderr)
            return 2
        rows.append(check(model, options.passes, not options.no_verify))
        hold(rows[-1], options.most_seconds, options.most_kernel_seconds)
        print(table(rows[-1:]).to_text().splitlines()[-1], flush=True)
        for text in filter(None, (rows[-1]["failure"], rows[-1]["declined"])):
            print(text, flush=True)
    print("\n" + table(rows).to_text())
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 1 if any(row["failure"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
