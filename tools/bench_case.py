"""One case of the benchmark: a model at a batch, compiled once, measured at each thread count beside its peers.

Run by `tools/bench.py` in a process of its own, so that its peak of memory is its own and a crash costs one case:

    python tools/bench_case.py JOB.json RESULT.json
"""

from __future__ import annotations

import contextlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import graphopt
from graphopt import io
from graphopt.data import inputs
from graphopt.proof.tolerance import compare
from tools import peers, suite
from tools.bench_turns import end_with_parent
from tools.bench_worker import Worker, peak_bytes, take_turns


@dataclass(frozen=True)
class Job:
    """What to measure. `model`: a name of the suite or a file (whose own shapes are kept then, and `batch` is 1).

    `runs`: timed runs of each runtime at most; `seconds`: no new round after so long. `clock`: "wall", or "cpu" for
    the processor time of each process. `tune`: "off" for the closed forms alone, "records" for the measurements at
    hand, or a budget.
    """

    model: str
    batch: int
    threads: tuple[int, ...]
    runs: int
    seconds: float
    target: str
    clock: str = "wall"
    tune: str = "off"

    @property
    def name(self) -> str:
        """What tables call the model."""
        return self.model if self.model in suite.SUITE else Path(self.model).stem


def measure(job: Job) -> list[dict[str, Any]]:
    """A row for each thread count: times, errors relative to the oracle, failures, compiling, memory."""
    with tempfile.TemporaryDirectory(prefix="graphopt-bench-") as name:
        folder = Path(name)
        path = folder / "model.onnx"
        in_suite = job.model in suite.SUITE
        onnx.save(suite.fixed(job.model, job.batch) if in_suite else onnx.load(job.model), path)
        failures: dict[str, str] = {}
        compiling = _compile(path, folder / "model.gopt", job, failures)
        sample = inputs.generate(io.load(path))
        if in_suite and job.batch > 1:
            suite.check_rebatched(job.model, onnx.load(path), sample.inputs)
        np.savez(folder / "feed.npz", **sample.inputs)
        about = {
            "model": job.name,
            "batch": job.batch,
            "shapes": {port: list(array.shape) for port, array in sample.inputs.items()},
            "clock": job.clock,
            "tune": job.tune,
            "compile": compiling,
        }
        return [
            {**about, "threads": threads, **_timed(job, folder, sample.outputs, threads, failures)}
            for threads in job.threads
        ]


def _compile(path: Path, artifact: Path, job: Job, failures: dict[str, str]) -> dict[str, Any] | None:
    """Seconds and peak memory (bytes, of the largest process) of compiling; None if that failed."""
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


def _timed(job: Job, folder: Path, wanted: Any, threads: int, failed: Mapping[str, str]) -> dict[str, Any]:
    """Every runtime that gives the right outputs, timed by turns."""
    errors, failures = {}, dict(failed)
    with contextlib.ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for name in (name for name in peers.available() if name not in failed):
            try:
                worker = stack.enter_context(Worker(name, folder, threads, job.clock))
            except RuntimeError as error:
                failures[name] = str(error)
                continue
            comparison = compare(wanted, worker.outputs())
            errors[name] = comparison.error
            if comparison.ok:
                workers[name] = worker
            else:
                failures[name] = f"outputs differ: {comparison.worst}"
        timings = take_turns(workers, job.runs, job.seconds)
        memory = {name: worker.peak_bytes() for name, worker in workers.items()}
    times = {name: timing.to_json() for name, timing in timings.items()}
    return {"timings": times, "errors": errors, "failures": failures, "memory": memory}


def run(job: Job, work: Path) -> list[dict[str, Any]]:
    """`measure` in a process of its own. Raises RuntimeError with the end of what it said if it died."""
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
