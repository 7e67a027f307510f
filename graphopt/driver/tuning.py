"""The tuner's requests and results: plain values that pass between processes."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from graphopt.errors import InputError

OFF = "off"
DEFAULT_BUDGET = "5m"
_UNITS = {"s": 1, "m": 60, "h": 3600}
_EXAMPLES = "Write a time such as 60s, 5m or 1h, or a number of measurements such as 200."


@dataclass(frozen=True)
class Budget:
    """The budget of a tuning run: seconds, or a number of measured candidates."""

    seconds: float | None = None
    measurements: int | None = None

    @staticmethod
    def parse(text: str) -> Budget:
        """Parse `60s`, `5m`, `1.5h` or `200`. Raises InputError for anything else."""
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])|(\d+)", text.strip())
        if found is None:
            raise InputError(f"cannot read the tuning budget '{text}'", remedy=_EXAMPLES)
        number, unit, count = found.groups()
        if float(number or count) == 0:
            raise InputError(f"a tuning budget of '{text}' measures nothing", remedy=_EXAMPLES)
        return Budget(measurements=int(count)) if count else Budget(seconds=float(number) * _UNITS[unit])

    def share(self, part: float) -> Budget:
        """Return a part of it, from 0 to 1; of measurements, at least the two of one comparison."""
        if self.measurements is not None:
            return Budget(measurements=max(2, int(self.measurements * part)))
        assert self.seconds is not None
        return Budget(seconds=self.seconds * part)


@dataclass(frozen=True)
class Remote:
    """Another machine to measure on: host and port of a TVM RPC tracker, and the key of a device at it."""

    host: str
    port: int
    key: str

    @staticmethod
    def parse(address: str, key: str) -> Remote:
        """Parse `host:port`, or `[IPv6]:port`. Raises InputError."""
        host, colon, port = address.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise InputError(f"cannot read the tracker address '{address}'", remedy="Write it as HOST:PORT.")
        if not key:
            raise InputError("the key of the devices at the tracker is missing", remedy="Name it with --rpc-key.")
        return Remote(host, int(port), key)


@dataclass(frozen=True)
class Tuning:
    """How the plans of kernels are chosen.

    `budget`: measure first; None: only use earlier measurements. `records`: a folder for the measurements instead of
    the one in the user's cache. `use_records=False`: use no measurements, only closed-form estimates. `remote`: where
    to measure; None: on this machine. `search`: spend a part of the budget on functions that no kernel family covers.
    `compact`: avoid plans whose packed weights are larger than the original ones, even if they are faster.
    """

    budget: Budget | None = None
    records: str | None = None
    use_records: bool = True
    remote: Remote | None = None
    search: bool = False
    compact: bool = False

    @staticmethod
    def of(tune: Tuning | str | int | None, records: str | os.PathLike[str] | None = None) -> Tuning:
        """Return the tuning for an argument of `graphopt.compile`: None, "off", a time or a number of measurements."""
        if isinstance(tune, Tuning):
            return tune
        folder = None if records is None else os.path.abspath(os.fspath(records))
        if tune == OFF:
            return Tuning(use_records=False)
        return Tuning(None if tune is None else Budget.parse(str(tune)), records=folder)


@dataclass(frozen=True)
class Tuned:
    """The result of tuning one workload of a model.

    `workload`: its key. `calls`: how often the model computes it. `default` and `best` name a family and its plan;
    their seconds were measured side by side, and are None if nothing was measured. `measured` and `failed` count the
    candidates of this run; `known`: the records already contained everything.
    """

    workload: str
    calls: int
    default: str
    default_seconds: float | None
    best: str
    best_seconds: float | None
    measured: int
    failed: int
    known: bool
