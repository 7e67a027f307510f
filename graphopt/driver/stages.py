"""The times of the stages of a compilation, taken from its progress reports."""

from __future__ import annotations

import time

from .backend import Progress


class Stages:
    """A `Progress` that forwards each call, and adds up the wall-clock seconds of each stage in `seconds`.

    The name of a stage is the text up to a colon. A stage ends when the next one begins.
    """

    def __init__(self, progress: Progress | None) -> None:
        self.seconds: dict[str, float] = {}
        self._progress = progress
        self._stage: str | None = None
        self._since = 0.0

    def __call__(self, what: str, done: float) -> None:
        now = time.perf_counter()
        if self._stage is not None:
            self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + now - self._since
        self._stage, self._since = what.partition(":")[0], now
        if self._progress is not None:
            self._progress(what, done)
