"""A runtime in a separate process, which runs a model on request and is stopped in between.

Worker threads of ONNX Runtime and of TVM keep spinning for hundreds of milliseconds after a run. In a single process
they would take the CPU from the next runtime; here the processes of all others are stopped (SIGSTOP).

    python tools/bench_worker.py RUNTIME FOLDER THREADS CLOCK

FOLDER contains model.onnx, model.gopt and feed.npz. The outputs of a first run are written there; then each line on
standard input is answered by a line with the seconds of some runs.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from graphopt.profiling.bench import Timing
from tools import peers
from tools.bench_turns import answer, end_with_parent, serve


class Worker:
    """The parent's side: starts the process, which loads the model and runs it once.

    Arguments:
        name: of the runtime; the files `name.txt` (messages) and `name.npz` (outputs) are written into `folder`.
        folder: where the model and its inputs are.
        threads: for the runtime to use.
        clock: "wall" or "cpu".
        command: what to start instead of this file; it gets the other arguments and behaves like `main`.

    Raises RuntimeError with its messages if it fails.
    """

    def __init__(
        self, name: str, folder: Path, threads: int, clock: str, command: Sequence[str] = (sys.executable, __file__)
    ) -> None:
        self._messages = (folder / f"{name}.txt").open("w+", encoding="utf-8")
        command = [*command, name, str(folder), str(threads), clock]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._messages, text=True
        )
        self._outputs = folder / f"{name}.npz"
        try:
            self._answer()
        except RuntimeError:
            self.close()
            raise
        self._stop()

    def outputs(self) -> dict[str, np.ndarray]:
        """What the first run gave, by name."""
        with np.load(self._outputs) as file:
            return dict(file)

    def turn(self) -> list[float]:
        """Return the seconds of some runs, after one that is not timed; the process is stopped at all other times."""
        self._process.send_signal(signal.SIGCONT)
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        seconds: list[float] = self._answer()
        self._stop()
        return seconds

    def peak_bytes(self) -> int:
        """The most memory that the process has had so far."""
        return peak_bytes(self._process.pid)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._messages):
            if stream is not None:
                stream.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _stop(self) -> None:
        """Stop the process, and wait until it has."""
        self._process.send_signal(signal.SIGSTOP)
        state = Path(f"/proc/{self._process.pid}/stat")
        while state.read_text(encoding="utf-8").rpartition(")")[2].split()[0] not in "TZ":
            time.sleep(1e-4)

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("@"):  # libraries may print too
                return json.loads(line[1:])
        self._messages.seek(0)
        said = self._messages.read().strip().splitlines() or ["it said nothing"]
        last = max(place for place, line in enumerate(said) if place == 0 or not line.startswith(" "))
        raise RuntimeError(f"ended with status {self._process.wait()}: {' '.join(said[last:])}")


def take_turns(workers: dict[str, Worker], runs: int, seconds: float) -> dict[str, Timing]:
    """Time about `runs` runs of each worker, interleaved; after three rounds, none starts once `seconds` are over."""
    taken: dict[str, list[float]] = {name: [] for name in workers}
    names = list(workers)
    start = time.perf_counter()
    round_ = 0
    while names and min(map(len, taken.values())) < runs and (round_ < 3 or time.perf_counter() - start < seconds):
        first = round_ % len(names)
        for name in names[first:] + names[:first]:
            taken[name] += workers[name].turn()
        round_ += 1
    return {name: Timing.of(times) for name, times in taken.items()}


def peak_bytes(process: int | str = "self") -> int:
    """The peak memory of a process. (What `getrusage` returns includes what the parent had.)"""
    lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def main(arguments: Sequence[str]) -> None:
    end_with_parent()
    name, folder, threads, clock = arguments[0], Path(arguments[1]), int(arguments[2]), arguments[3]
    with np.load(folder / "feed.npz") as file:
        feed = dict(file)
    run = peers.make(name, folder / "model.onnx", folder / "model.gopt", feed, threads)
    outputs: Any = run()
    np.savez(folder / f"{name}.npz", **outputs)
    del outputs
    answer("ready")
    serve(run, clock, sys.stdin, answer)


if __name__ == "__main__":
    main(sys.argv[1:])
