"""Profiles of compiled models: each kernel's share of the time, measured within whole runs.

The virtual machine calls back before and after each kernel. The overhead of taking the time is measured in the same run
(the shortest of its several hundred steps does nothing else) and subtracted; runs without callbacks alternate with
those that have them, so that the sum of the kernels can be compared with an undisturbed latency. With one thread, the
clock is the CPU time of that thread, which excludes what other programs use.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.errors import InputError
from graphopt.profiling.kernels import Kernel, read_kernels

if TYPE_CHECKING:
    import numpy as np

    from graphopt.driver.backend import Peak
    from graphopt.runtime.session import Session

OWN_STEPS = ("vm.", "shape_func")
"""Prefixes of the names of the virtual machine's own steps: calls of its library, and arithmetic on sizes."""


@dataclass(frozen=True)
class Call:
    """One call of a kernel in a run: the kernel, and the median of its seconds."""

    kernel: Kernel
    seconds: float


@dataclass(frozen=True)
class Profile:
    """The calls of one run in order; `latency` is the median of whole runs without tracing, in seconds.

    `peak`: the measured peak of the machine on `threads` threads, or None.
    """

    calls: tuple[Call, ...]
    latency: float
    runs: int
    threads: int
    peak: Peak | None = None

    @property
    def seconds(self) -> float:
        """The time in kernels; the rest of the latency is between them."""
        return sum(call.seconds for call in self.calls)

    def share(self, call: Call) -> float:
        """Return the call's share of the time in kernels, 0 to 1."""
        return call.seconds / self.seconds if self.seconds else 0.0

    def of_peak(self, call: Call) -> float | None:
        """Return the call's operations per second relative to the peak, for kernels on bytes that of products of bytes.

        Winograd and the like can exceed 1.
        """
        flops = call.kernel.flops
        if self.peak is None or flops is None or not call.seconds:
            return None
        return flops / call.seconds / (self.peak.products if call.kernel.is_integer else self.peak.flops)

    def of_memory(self, call: Call) -> float | None:
        """Return the call's bytes per second relative to the memory bandwidth; data in caches can exceed 1."""
        size = call.kernel.bytes
        return None if self.peak is None or size is None or not call.seconds else size / call.seconds / self.peak.bytes

    def to_json(self) -> dict[str, Any]:
        """Return the profile as JSON types."""
        return {
            "latency": self.latency,
            "kernel_seconds": self.seconds,
            "runs": self.runs,
            "threads": self.threads,
            "peak": None if self.peak is None else asdict(self.peak),
            "kernels": [
                {
                    **asdict(call.kernel),
                    "seconds": call.seconds,
                    "share": self.share(call),
                    "of_peak": self.of_peak(call),
                    "of_memory": self.of_memory(call),
                }
                for call in self.calls
            ],
        }


def profile(
    session: Session,
    folder: Path,
    inputs: Mapping[str, np.ndarray],
    *,
    runs: int = 30,
    seconds: float = 30.0,
    peak: Peak | None = None,
) -> Profile:
    """Trace up to `runs` runs of the artifact in `folder`, which `session` has loaded, for about `seconds`.

    Raises InputError for an artifact of another device than a CPU, where kernels run asynchronously, and ArtifactError
    if the artifact does not list its kernels.
    """
    if session.manifest.device != "cpu":
        raise InputError(
            f"kernels on {session.manifest.device} cannot be timed one by one yet",
            where=str(folder),
            remedy="profile with the vendor's tool (nsys), or compile for a CPU",
        )
    known = read_kernels(folder)
    clock = _clock(session)
    session.run(inputs)
    traces: list[list[tuple[str, float]]] = []
    whole: list[float] = []
    start = time.perf_counter()
    while len(traces) < runs and (len(traces) < 3 or time.perf_counter() - start < seconds):
        traces.append(trace(session, inputs))
        session.run(inputs)
        begun = clock()
        session.run(inputs)
        whole.append(clock() - begun)
    names = [name for name, _ in traces[0]]
    same = [trace for trace in traces if [name for name, _ in trace] == names]
    medians = [statistics.median(taken) for taken in zip(*([time for _, time in trace] for trace in same), strict=True)]
    calls = tuple(map(Call, assign(names, known), medians))
    return Profile(calls, statistics.median(whole), len(traces), session.threads, peak)


def _clock(session: Session) -> Callable[[], float]:
    return time.thread_time if session.threads == 1 else time.perf_counter


def trace(session: Session, inputs: Mapping[str, np.ndarray]) -> list[tuple[str, float]]:
    """Run once, and return the name and the seconds of each kernel in the order of the calls."""
    clock = _clock(session)
    events: list[tuple[str, bool, float]] = []

    def note(function: object, name: str, is_before: bool, *rest: object) -> None:
        events.append((name, is_before, clock()))

    session.instrument(note)
    try:
        session.run(inputs)
    finally:
        session.instrument(None)
    steps = []
    for (name, is_before, start), (other, is_still_before, end) in itertools.pairwise(events):
        if is_before and not is_still_before and name == other:
            steps.append((name, end - start))
    cost = min((seconds for _, seconds in steps), default=0.0)
    return [(name, max(seconds - cost, 0.0)) for name, seconds in steps if not name.startswith(OWN_STEPS)]


def assign(names: Sequence[str], known: Sequence[Kernel]) -> list[Kernel]:
    """Return the kernel of each call, given the names of the calls and the list of possible kernels, in order.

    The list contains both branches of an `If`: entries whose function is not the one called are skipped. (If both
    branches call the same function, the call is attributed to the first.)
    """
    result, place = [], 0
    for name in names:
        found = next((i for i in range(place, len(known)) if known[i].function == name), None)
        if found is None:
            result.append(Kernel(name, (), (), None, None, ""))
        else:
            result.append(known[found])
            place = found + 1
    return result
