"""Compare graphopt with ONNX Runtime on random graphs.

    python tools/fuzz.py [--seeds FIRST:LAST] [--jobs N] [--limit SECONDS] [--every-level] [--findings FOLDER]

Each seed is a graph of two to twelve nodes with any operators, dtypes, attributes and opsets, with fixed or open sizes
and sometimes special numbers. It is optimized at -O0 to -O3 and each result is run in ONNX Runtime; it is compiled at
one level (at all with --every-level) and run. Graphs that ONNX Runtime rejects, or that it crashes on, are skipped, and
what graphopt declares unsupported is counted. A failure is reduced and written into a separate folder. Exit status: 0
no failure, 1 failures.
"""

from __future__ import annotations

import argparse
import collections
import multiprocessing
import multiprocessing.connection
import re
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.fuzzing.check import LEVELS, Finding, build_in_process, check
from tools.fuzzing.graph import Case
from tools.fuzzing.make import make
from tools.fuzzing.shrink import shrink, write

FRESH = 150
"""The number of cases after which a process is replaced, because every compiled library stays loaded in it."""
REPORTED = 50
"""Cases after which the counts so far are printed to standard error."""
STARTING = 120.0
"""The seconds that a new process may take in addition to a case's limit, because it loads the compiler."""


def _work(connection: Connection) -> None:
    """Run a child: answer (case or seed, levels) with a finding, until the pipe is closed.

    None is sent before, once ONNX Runtime has survived the case.
    """
    warnings.simplefilter("ignore")
    build_in_process()
    while True:
        try:
            what, optimize, build = connection.recv()
        except EOFError:
            return
        case = make(what) if isinstance(what, int) else what
        connection.send(check(case, optimize, build, lambda: connection.send(None)))


class Worker:
    """A process that checks cases one after the other. A crash or a timeout is a finding."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._process: Any = None
        self._done = 0

    def check(self, what: int | Case, optimize: Sequence[str], build: Sequence[str]) -> Finding:
        """Return the finding for a case, or for the case of a seed."""
        deadline = time.monotonic() + self._ready() + self.limit
        self._done += 1
        answer: Finding | None = None
        survived = False
        try:
            self._pipe.send((what, optimize, build))
            while answer is None:
                if not self._pipe.poll(max(0.0, deadline - time.monotonic())):
                    self.close()
                    return Finding("failed", _stage(optimize, build), f"more than {self.limit:.0f} seconds")
                answer = self._pipe.recv()
                survived = True
        except (EOFError, BrokenPipeError):
            self._process.join()
            status = self._process.exitcode
            self.close()
            kind = "failed" if survived else "skipped"  # before the first answer, only ONNX Runtime computes
            return Finding(kind, _stage(optimize, build), f"the process died with status {status}")
        return answer

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = None

    def _ready(self) -> float:
        if self._process is not None and self._done < FRESH:
            return 0.0
        self.close()
        context = multiprocessing.get_context("spawn")
        self._pipe, there = context.Pipe()
        self._process = context.Process(target=_work, args=(there,), daemon=True)
        self._process.start()
        there.close()
        self._done = 0
        return STARTING


def _stage(optimize: Sequence[str], build: Sequence[str]) -> str:
    return f"compile {build[0]}" if build and not optimize else "crash"


def levels_of(seed: int, every: bool) -> tuple[str, ...]:
    return LEVELS if every else (LEVELS[seed % len(LEVELS)],)


def small(worker: Worker, seed: int, finding: Finding) -> tuple[Case, Finding]:
    """Return the case of a seed that failed, reduced."""
    case = make(seed)
    kind, _, level = finding.stage.partition(" ")
    if kind == "crash":
        return case, finding
    stages = ([level], []) if kind == "optimize" else ([], [level])
    return shrink(case, finding, lambda smaller: worker.check(smaller, *stages))


def run(seeds: Sequence[int], jobs: int, limit: float, every: bool, findings: Path) -> collections.Counter[str]:
    """Check seeds in some parallel processes, and print findings; return how many ended how."""
    counts: collections.Counter[str] = collections.Counter()
    unsupported: collections.Counter[str] = collections.Counter()
    rest: Iterator[int] = iter(seeds)
    lock = threading.Lock()

    def follow() -> None:
        worker = Worker(limit)
        while True:
            with lock:
                seed = next(rest, None)
            if seed is None:
                break
            finding = worker.check(seed, LEVELS, levels_of(seed, every))
            if finding.failed:
                case, finding = small(worker, seed, finding)
                place = write(case, finding, findings / f"seed_{seed}")
                print(f"{place}: {finding.stage}: {case.operators()}: {_line(finding.text)}", flush=True)
            with lock:
                counts[finding.kind] += 1
                if finding.kind == "unsupported":
                    unsupported[_reason(finding.text)] += 1
                if sum(counts.values()) % REPORTED == 0:
                    print(f"seed {seed}: {_said(counts)}", file=sys.stderr, flush=True)
        worker.close()

    threads = [threading.Thread(target=follow) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for reason, count in unsupported.most_common():
        print(f"unsupported {count:4}  {reason}")
    return counts


def _said(counts: collections.Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))


def _line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")[:250]


def _reason(text: str) -> str:
    """Return a message without the names of one particular graph."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return re.sub(r"'?[a-zA-Z_]*\d+'?", "#", lines[1] if len(lines) > 1 else lines[0])[:160]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", default="0:3000", help="FIRST:LAST, or one seed (default: 0:3000)")
    parser.add_argument("--jobs", type=int, default=1, help="parallel processes")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds for one graph (default: 60)")
    parser.add_argument("--every-level", action="store_true", help="compile each graph at -O0 to -O3, not at one")
    parser.add_argument("--findings", type=Path, default=Path("findings"), help="folder for failing cases")
    options = parser.parse_args(arguments)
    first, colon, last = options.seeds.partition(":")
    seeds = range(int(first), int(last) if colon else int(first) + 1)
    started = time.perf_counter()
    counts = run(seeds, options.jobs, options.limit, options.every_level, options.findings)
    print(f"{sum(counts.values())} graphs in {time.perf_counter() - started:.0f} s: {_said(counts)}")
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
