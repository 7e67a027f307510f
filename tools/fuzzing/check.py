"""The check of a case: optimized at every level, and compiled, against ONNX Runtime."""

from __future__ import annotations

import functools
import json
import logging
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

import graphopt
from graphopt import io
from graphopt.driver import worker
from graphopt.errors import GraphOptError, UnsupportedError, VerificationError
from graphopt.ir import DType
from graphopt.proof.oracle import Reference
from graphopt.proof.tolerance import Tolerance, compare
from tools.fuzzing.graph import Case
from tools.fuzzing.make import expected, fits, other_sizes

LEVELS = ("O0", "O1", "O2", "O3")
ROUNDED = 0.1
"""The error allowed in floats of a model that rounds to few integers in between."""


@dataclass(frozen=True)
class Finding:
    """The result for a case. `kind`: "ok", "skipped", "unsupported" or "failed"; `stage`: where, e.g. "compile O2"."""

    kind: str
    stage: str = ""
    text: str = ""

    @property
    def failed(self) -> bool:
        return self.kind == "failed"


def build_in_process() -> None:
    """Make `compile` run the compiler in this process: starting one for each of thousands of graphs takes longer.

    Requests and answers of the compiler go through JSON as usual. A schedule that fails, and is replaced by a simpler
    one, is a finding.
    """

    def run_here(job: dict[str, Any], progress: Any, *_: Any) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(json.dumps(worker._do(job, progress)))
        return answer

    assert callable(worker._run_job)
    worker._run_job = run_here
    logging.getLogger("graphopt.targets.tvm.cpu").addHandler(_Raise(logging.WARNING))


class _Raise(logging.Handler):
    """Raises what is logged."""

    def emit(self, record: logging.LogRecord) -> None:
        raise GraphOptError(record.getMessage())


def check(
    case: Case,
    optimize: Iterable[str] = LEVELS,
    build: Iterable[str] = LEVELS,
    expected_known: Callable[[], None] = lambda: None,
) -> Finding:
    """Optimize at some levels and compile at some, and compare. Equal code is not compiled twice.

    `expected_known` is called once ONNX Runtime has computed all results, before anything else runs.
    """
    wanted = expected(case.model, case.inputs)
    if wanted is None or not wanted:
        return Finding("skipped")
    runs = [(case.inputs, wanted)]
    for given in other_sizes(case):
        if fits(case.model, given) and (more := expected(case.model, given)) is not None and not _strange(more):
            runs.append((given, more))
    expected_known()
    tolerance = tolerance_of(case, wanted)
    compiled = tolerance_of(case, wanted, compiled=True)
    for level in optimize:
        if problem := _attempt(lambda level=level: _optimized(case, level, runs, tolerance)):  # type: ignore[misc]
            return _finding(f"optimize {level}", problem)
    for level in build:
        if problem := _attempt(lambda level=level: _compiled(case, level, runs, compiled)):  # type: ignore[misc]
            return _finding(f"compile {level}", problem)
    return Finding("ok")


Runs = list[tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]]


def _finding(stage: str, problem: BaseException | str) -> Finding:
    if isinstance(problem, UnsupportedError):
        return Finding("unsupported", stage, str(problem))
    if isinstance(problem, GraphOptError):
        return Finding("failed", stage, f"{type(problem).__name__}: {problem}")
    if isinstance(problem, str):
        return Finding("failed", stage, problem)
    said = (str(problem).strip().splitlines() or ["no message"])[-1]
    whole = "".join(traceback.format_exception(problem))
    return Finding("failed", stage, f"{type(problem).__name__}: {said}\n\n{whole}")


def _attempt(action: Any) -> BaseException | str:
    """Return what went wrong, or an empty text."""
    try:
        return str(action())
    except Exception as error:  # any exception is the finding
        return error


def _optimized(case: Case, level: str, runs: Runs, tolerance: Tolerance) -> str:
    model, _ = graphopt.optimize(case.model, level)
    with Reference(model) as reference:
        takes = {port.name for port in reference.inputs}
        for given, wanted in runs:
            fed = {name: array for name, array in given.items() if name in takes}
            if problem := difference(wanted, reference.run(fed), tolerance):
                return f"at {_sizes(given)}: {problem}"
    return ""


def _compiled(case: Case, level: str, runs: Runs, tolerance: Tolerance) -> str:
    artifact = graphopt.compile(io.load(case.model), _host(), level)
    for given, wanted in runs:
        if problem := difference(wanted, artifact.run(given), tolerance):
            return f"at {_sizes(given)}: {problem}"
    return ""


@functools.cache
def _host() -> graphopt.Target:
    """Return this machine; detecting it takes a tenth of the time of compiling a small graph."""
    return graphopt.Target.load("host")


def tolerance_of(case: Case, wanted: Mapping[str, np.ndarray], *, compiled: bool = False) -> Tolerance:
    """Return the tolerance: what a dtype allows, plus the case's own rounding.

    In `compiled` code, which multiplies integers, those of a model that rounds activations may be a step away (at other
    sizes: of a smaller largest one), and floats what this becomes. Passes alone change nothing of the kind.
    """
    usual = Tolerance()
    is_rounded = compiled and any(
        node.op_type.startswith(("QuantizeLinear", "QLinear")) for node in case.model.graph.node
    )

    def allowed(name: str, array: np.ndarray) -> float:
        least = usual.allowed("", DType.of(array))
        if is_rounded:
            largest = np.abs(array.astype(np.float64)).max(initial=1, where=np.isfinite(array))
            least = 2 / largest if array.dtype.kind in "iu" else max(least, ROUNDED)
        return min(0.9, least + case.slack.get(name, 0.0))

    return Tolerance(outputs={name: allowed(name, array) for name, array in wanted.items()})


def difference(wanted: Mapping[str, np.ndarray], got: Mapping[str, np.ndarray], tolerance: Tolerance) -> str:
    """Return what differs, or an empty text. Outputs without elements must have the same dtypes and shapes."""
    try:
        comparison = compare(wanted, got, tolerance)
    except VerificationError:
        return ""  # raised after all was found equal, if there are no elements
    return "" if comparison.ok else str(comparison.worst)


def _strange(outputs: Mapping[str, np.ndarray]) -> bool:
    """Return whether some output has a NaN or an infinity: at other sizes it may depend on rounding."""
    return any(a.dtype.kind == "f" and not np.isfinite(a).all() for a in outputs.values())


def _sizes(given: Mapping[str, np.ndarray]) -> str:
    return ", ".join(f"{name} {list(array.shape)}" for name, array in given.items()) or "no inputs"
