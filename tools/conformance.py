"""Run the ONNX project's backend node tests through the lowering and count what passes.

    python tools/conformance.py [--filter TEXT] [--json FILE] [--verbose]

Every test is one of five: it passes; it gives what ONNX Runtime gives, which is not what the test expects
("oracle"); it passes once all inputs but the first are constants, as axes, scales and
shapes are in real models ("constant"); it is declared unsupported (with a reason); or it fails. A failure is a wrong
answer or a crash, and the exit status is 1 if there is any. The tests run in a child process, so that a crash of the
compiler is one failed test and not the end.
"""

from __future__ import annotations

import argparse
import collections
import json
import multiprocessing
import sys
import time
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import onnx
import onnx.backend.test.loader as loader
import onnxruntime
from onnx import numpy_helper
from onnx.backend.test.case.test_case import TestCase

from graphopt import io
from graphopt.errors import UnsupportedError
from graphopt.targets.tvm.lowering import execute
from graphopt.targets.tvm.lowering.lower import lower


def cases(text: str = "") -> list[TestCase]:
    """The node tests whose name contains `text`, by name."""
    return sorted((c for c in loader.load_model_tests(kind="node") if text in c.name), key=lambda c: c.name)


def run_case(case: TestCase) -> tuple[str, str]:
    """Return `pass`, `oracle`, `constant`, `unsupported` or `fail`, and why."""
    try:
        return _run(case, case.model, "pass")
    except UnsupportedError as error:
        reason = error.message
    if len(case.model.graph.input) < 2 or len(case.data_sets) != 1:
        return "unsupported", reason
    try:
        return _run(case, with_constants(case), "constant")
    except UnsupportedError as error:
        return "unsupported", error.message


def _run(case: TestCase, model: onnx.ModelProto, success: str) -> tuple[str, str]:
    lowered = lower(io.load(model))
    runner = execute.Runner(lowered)
    for inputs, expected in case.data_sets:
        given = dict(zip((value.name for value in case.model.graph.input), inputs))
        outputs = runner([array_of(given[info.name]) for info in lowered.inputs])
        for info, output, wanted in zip(lowered.outputs, outputs, expected, strict=True):
            problem = difference(output, array_of(wanted), case.rtol, case.atol)
            if problem and not _oracle_agrees(case, outputs):
                return "fail", f"{info.name}: {problem}"
            success = "oracle" if problem else success
    return success, ""


def _oracle_agrees(case: TestCase, outputs: list[np.ndarray]) -> bool:
    """Return whether ONNX Runtime also returns these outputs and not those that the test expects."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(case.model.SerializeToString(), options)
        given = zip((value.name for value in session.get_inputs()), case.data_sets[0][0])
        wanted = session.run(None, {name: array_of(value) for name, value in given})
    except Exception:  # ONNX Runtime has many kinds of errors; with any of them there is no oracle
        return False
    return all(not difference(a, b, case.rtol, case.atol) for a, b in zip(outputs, wanted, strict=True))


def with_constants(case: TestCase) -> onnx.ModelProto:
    """Return the test's model with every input but the first as an initializer with the test's data."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    tensors = [isinstance(value, np.ndarray | np.generic | onnx.TensorProto) for value in case.data_sets[0][0]]
    if not all(tensors):
        return model
    for value, content in list(zip(case.model.graph.input, case.data_sets[0][0]))[1:]:
        model.graph.initializer.append(numpy_helper.from_array(array_of(content), value.name))
    del model.graph.input[1:]
    return model


def array_of(value: Any) -> np.ndarray:
    """Return a test's datum as an array."""
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)


def difference(output: np.ndarray, wanted: np.ndarray, rtol: float, atol: float) -> str:
    """Return what differs between an output and the expected one; empty if nothing does."""
    if output.dtype != wanted.dtype:
        return f"element type {output.dtype} instead of {wanted.dtype}"
    if output.shape != wanted.shape:
        return f"shape {output.shape} instead of {wanted.shape}"
    if wanted.dtype.kind in "biu":
        same = np.array_equal(output, wanted)
        return "" if same else f"{np.sum(output != wanted)} of {wanted.size} elements differ"
    have, want = output.astype(np.float64), wanted.astype(np.float64)
    if wanted.dtype.itemsize == 2:
        rtol, atol = max(rtol, 1e-2 if "bfloat" in str(wanted.dtype) else 2e-3), max(atol, 2e-3)
    if np.allclose(have, want, rtol=rtol, atol=atol, equal_nan=True):
        return ""
    return f"differs by up to {np.nanmax(np.abs(have - want)) if want.size else 0:.3g}"


def _work(names: list[str], connection: Connection) -> None:
    wanted = set(names)
    by_name = {case.name: case for case in cases() if case.name in wanted}
    for name in names:
        try:
            result = run_case(by_name[name])
        except Exception as error:  # a test that raises has failed; its message is the result
            text = f"{type(error).__name__}: {error}".strip()
            result = "fail", text.splitlines()[0][:300] if text else ""
        connection.send((name, *result))
    connection.close()


def run_all(names: list[str], on_result: Any = None) -> dict[str, tuple[str, str]]:
    """Return the result of each named test; a test during which the child process crashes has failed."""
    results: dict[str, tuple[str, str]] = {}
    while len(results) < len(names):
        rest = [name for name in names if name not in results]
        here, there = multiprocessing.Pipe(duplex=False)
        child = multiprocessing.get_context("spawn").Process(target=_work, args=(rest, there))
        child.start()
        there.close()
        try:
            while True:
                name, status, reason = here.recv()
                results[name] = status, reason
                if on_result:
                    on_result(name, status, reason)
        except EOFError:
            child.join()
        if len(results) < len(names) and child.exitcode != 0:
            name = next(name for name in names if name not in results)
            results[name] = "fail", f"the process died with status {child.exitcode}"
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--filter", default="", help="only tests whose name contains this")
    parser.add_argument("--json", help="write every result to this file")
    parser.add_argument("--verbose", action="store_true", help="print each test that does not pass as it ends")
    options = parser.parse_args()
    names = [case.name for case in cases(options.filter)]
    started = time.perf_counter()

    def show(name: str, status: str, reason: str) -> None:
        if options.verbose and status not in ("pass", "constant", "oracle"):
            print(f"{status:12} {name}: {reason}", flush=True)

    results = run_all(names, show)
    counts = collections.Counter(status for status, _ in results.values())
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"counts": counts, "results": results}, file, indent=1, sort_keys=True)
    seconds = time.perf_counter() - started
    print(
        f"{counts['pass']} pass, {counts['oracle']} as ONNX Runtime, {counts['constant']} with constant inputs,"
        f" {counts['unsupported']} unsupported, {counts['fail']} fail, of {len(names)} in {seconds:.0f} s"
    )
    return 1 if counts["fail"] else 0


if __name__ == "__main__":
    sys.exit(main())
