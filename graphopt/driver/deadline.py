"""A limit on the time that a compilation may take."""

from __future__ import annotations

import math
import re
import time
from typing import TYPE_CHECKING

from graphopt.errors import CompileError, InputError
from graphopt.rewriting.pipeline import Observer, Step

if TYPE_CHECKING:
    from graphopt.ir import Model

_UNITS = {"s": 1, "m": 60, "h": 3600}


class Deadline(Observer):
    """The time by which a compilation must have ended, checked before each pass and by the compiling process.

    `limit`: seconds from now; None: no limit. Raises InputError for a limit that is not positive.
    """

    def __init__(self, limit: float | None) -> None:
        if limit is not None and not (limit > 0 and math.isfinite(limit)):
            raise InputError(f"{limit} seconds is not a valid time limit", remedy="Give a positive number of seconds.")
        self.limit = limit
        self._end = None if limit is None else time.monotonic() + limit

    def left(self) -> float | None:
        """Return the remaining seconds, at least 0; None without a limit."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    def check(self, doing: str) -> None:
        """Raise CompileError once the time is over; `doing` is the current activity."""
        if self.left() == 0.0:
            raise self.exceeded(doing)

    def exceeded(self, doing: str) -> CompileError:
        """Return the error of a compilation that took too long; `doing` is what it was doing."""
        return CompileError(
            f"compiling took longer than the limit of {self.limit:g} seconds; it was {doing}",
            remedy="raise the limit (--time-limit), optimize less (-O1), or fix open sizes with --input",
        )

    def before(self, step: Step, model: Model) -> None:
        self.check(f"about to run {step.label}")


def parse_limit(text: str | None) -> float | None:
    """Parse `90s`, `5m` or `1.5h` as seconds. Raises InputError for anything else."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text.strip())
    if found is None or float(found[1]) == 0:
        raise InputError(f"cannot read the time limit '{text}'", remedy="Write a time such as 90s, 5m or 1h.")
    return float(found[1]) * _UNITS[found[2]]
