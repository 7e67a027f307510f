"""The loop of a process that measures a runtime: it runs on request, and is stopped in between.

Standard library only, and not part of a package, because workers of other versions of graphopt, in their own
environments, use it too.
"""

from __future__ import annotations

import ctypes
import json
import signal
import time
from collections.abc import Callable
from typing import Any

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
_TURN = 0.02  # the approximate seconds of a turn: fast models are run several times in it
_MOST = 10
_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


def runs_in_a_turn(seconds: float) -> int:
    """Return how many runs of `seconds` each are timed in one turn."""
    return max(1, min(_MOST, int(_TURN / max(seconds, 1e-9))))


def serve(run: Callable[[], Any], clock: str, lines: Any, answer: Any) -> None:
    """Answer each of `lines` with the seconds of some runs."""
    now = CLOCKS[clock]
    for _ in lines:
        start = time.perf_counter()
        run()
        times = []
        for _ in range(runs_in_a_turn(time.perf_counter() - start)):
            begun = now()
            run()
            times.append(now() - begun)
        answer(times)


def end_with_parent() -> None:
    """Have this process killed when its parent ends for any reason: a stopped process would stay forever."""
    ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def answer(what: Any) -> None:
    """Write a line for the parent, marked to distinguish it from the output of libraries."""
    print(f"@{json.dumps(what)}", flush=True)
