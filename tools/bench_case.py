"""One case of the benchmark: a model at a batch size, compiled once, measured at each thread count against its peers.

`tools/bench.py` runs it in a separate process, so that its peak memory is its own and a crash costs one case:

    python tools/bench_case.py JOB.json RESULT.json
"""

from __future__ import annotations

import contextlib
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import graphopt
from graphopt import io
from graphopt.data import inputs
from graphopt.proof.oracle import run_reference
from graphopt.proof.standard import standard_of
from graphopt.proof.tolerance import Tolerance, compare
from tools import peers, suite
from tools.bench_turns import end_with_parent
from tools.bench_worker import Worker, peak_bytes, take_turns

SAMPLES = 4
FARTHER = 1.5
"""How many times as far from the outputs of the float model a runtime's may be as those of the quantized one are."""

Outputs = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Job:
    """A job of the benchmark. `model`: a name of the suite or a file (with its own shapes; `batch` is then 1).

    `runs`: maximal timed runs of each runtime; `seconds`: no new round starts after this time. `clock`: "wall", or
    "cpu" for the CPU time of each process. `tune`: "off" for closed-form plans, "records" for existing records, or a
    budget. `int8`: all runtimes get the model after static quantization, on generated samples; `reduce_range`: with
    weights of 7 bits.
    """

    model: str
    batch: int
    threads: tuple[int, ...]
    runs: int
    seconds: float
    target: str
    clock: str = "wall"
    tune: str = "off"
    int8: bool = False
    reduce_range: bool = False

    @property
    def name(self) -> str:
        """The name of the model in tables."""
        return self.model if self.model in suite.SUITE else Path(self.model).stem


def measure(job: Job) -> list[dict[str, Any]]:
    """Return a row for each thread count: times, errors relative to the oracle, failures, compile time, memory."""
    with tempfile.TemporaryDirectory(prefix="graphopt-bench-") as name:
        folder = Path(name)
        path = folder / "model.onnx"
        in_suite = job.model in suite.SUITE
        onnx.save(suite.fixed(job.model, job.batch) if in_suite else onnx.load(job.model), path)
        floats = io.load(path) if job.int8 else None
        if job.int8:
            quantize(path, folder, job.reduce_range)
        failures: dict[str, str] = {}
        compiling = _compile(path, folder / "model.gopt", job, failures)
        sample = inputs.generate(io.load(path))
        if in_suite and job.batch > 1:
            suite.check_rebatched(job.model, onnx.load(path), sample.inputs)
        np.savez(folder / "feed.npz", **sample.inputs)
        exact = None if floats is None else run_reference(floats, sample.inputs)
        judge = Judge(sample.outputs, exact, standard_of(io.load(path)))
        about = {
            "model": job.name,
            "batch": job.batch,
            "shapes": {port: list(array.shape) for port, array in sample.inputs.items()},
            "clock": job.clock,
            "tune": job.tune,
            "int8": job.int8,
            "compile": compiling,
        }
        return [
            {**about, "threads": threads, **_timed(job, folder, judge, threads, failures)} for threads in job.threads
        ]


def quantize(path: Path, folder: Path, reduce_range: bool = False) -> None:
    """Replace a model by its quantized form: ranges that some generated inputs have say nothing about its accuracy."""
    model = io.load(path)
    given = [inputs.generate(model, seed=seed).inputs for seed in range(SAMPLES)]
    samples = folder / "samples.npz"
    np.savez(samples, **{name: np.concatenate([one[name] for one in given]) for name in given[0]})
    options = f"calibration=min-max weights=min-max reduce_range={str(reduce_range).lower()}"
    passes = f"default,quantize-static{{{options}}},eliminate-dead"
    quantized, _ = graphopt.optimize(model, passes=passes, samples=samples)
    graphopt.save(quantized, path)


def _compile(path: Path, artifact: Path, job: Job, failures: dict[str, str]) -> dict[str, Any] | None:
    """Return the seconds and peak memory (bytes, of the largest process) of compiling; None if that failed."""
    start = time.perf_counter()
    try:
        tune = None if job.tune == "records" else job.tune
        graphopt.compile(path, target=job.target, tune=tune).save(artifact)
    except graphopt.GraphOptError as error:
        failures[peers.OURS] = f"{type(error).__name__}: {error}"
        return None
    seconds = time.perf_counter() - start
    # The passes run in this process, which has done little else so far; the code is generated in a child.
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return {"seconds": seconds, "peak_bytes": max(children, peak_bytes())}


@dataclass(frozen=True)
class Judge:
    """Says whether outputs are correct, given those of the model and, if `--int8` quantized it, of the `floats` before.

    A sum between two integers may become either. Where a network amplifies such a step, runtimes that all compute
    correctly differ by more than any useful tolerance, but none is much farther from the float model than the others.
    """

    wanted: Outputs
    floats: Outputs | None = None
    tolerance: Tolerance = field(default_factory=Tolerance)

    def __call__(self, outputs: Outputs) -> tuple[float, str]:
        """Return the error, and what is wrong, or ""."""
        if self.floats is None:
            comparison = compare(self.wanted, outputs, self.tolerance)
            return comparison.error, "" if comparison.ok else f"outputs differ: {comparison.worst}"
        errors = {}
        for name, exact in self.floats.items():
            if outputs[name].shape != exact.shape:
                return math.inf, f"output '{name}' has the shape {list(outputs[name].shape)}"
            size = float(np.sqrt(np.mean(np.square(exact, dtype=np.float64)))) or 1.0
            errors[name] = _distance(outputs[name], exact) / size
            most = FARTHER * _distance(self.wanted[name], exact) / size + 1e-3
            if not errors[name] <= most:
                return errors[name], f"output '{name}' is {errors[name]:.1e} from the floats, allowed {most:.1e}"
        return max(errors.values(), default=0.0), ""


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    """Return the root of the mean square of the difference."""
    return float(np.sqrt(np.mean(np.square(np.subtract(one, other, dtype=np.float64)))))


def _timed(job: Job, folder: Path, judge: Judge, threads: int, failed: Mapping[str, str]) -> dict[str, Any]:
    """Time all runtimes whose outputs are correct, interleaved."""
    errors, failures = {}, dict(failed)
    with contextlib.ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for name in (name for name in peers.available() if name not in failed):
            try:
                worker = stack.enter_context(Worker(name, folder, threads, job.clock))
            except RuntimeError as error:
                failures[name] = str(error)
                continue
            errors[name], problem = judge(worker.outputs())
            if problem:
                failures[name] = problem
            else:
                workers[name] = worker
        timings = take_turns(workers, job.runs, job.seconds)
        memory = {name: worker.peak_bytes() for name, worker in workers.items()}
    times = {name: timing.to_json() for name, timing in timings.items()}
    return {"timings": times, "errors": errors, "failures": failures, "memory": memory}


def run(job: Job, work: Path) -> list[dict[str, Any]]:
    """Run `measure` in a separate process. Raises RuntimeError with the end of its output if it crashed."""
    given, result = work / "job.json", work / "result.json"
    given.write_text(json.dumps(asdict(job)), encoding="utf-8")
    result.unlink(missing_ok=True)
    command = [sys.executable, __file__, str(given), str(result)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode or not result.is_file():
        raise RuntimeError(f"ended with status {done.returncode}: {done.stdout.strip()[-2000:]}")
    rows: list[dict[str, Any]] = json.loads(result.read_text(encoding="utf-8"))
    return rows


def main(arguments: list[str]) -> None:
    end_with_parent()
    table = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    rows = measure(Job(**{**table, "threads": tuple(table["threads"])}))
    Path(arguments[1]).write_text(json.dumps(rows), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
