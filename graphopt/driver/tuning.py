"""What is asked of the tuner, and what it answers: plain values that pass between processes."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from graphopt.errors import InputError

OFF = "off"
DEFAULT_BUDGET = "5m"
_UNITS = {"s": 1, "m": 60, "h": 3600}
_EXAMPLES = "Write a time as 60s, 5m or 1h, or a number of measurements as 200."


@dataclass(frozen=True)
class Budget:
    """How much may be spent: seconds, or a number of candidates measured."""

    seconds: float | None = None
    measurements: int | None = None

    @staticmethod
    def parse(text: str) -> Budget:
        """`60s`, `5m`, `1.5h` or `200`. Raises InputError for anything else."""
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])|(\d+)", text.strip())
        if found is None:
            raise InputError(f"cannot read the tuning budget '{text}'", remedy=_EXAMPLES)
        number, unit, count = found.groups()
        if float(number or count) == 0:
            raise InputError(f"a tuning budget of '{text}' measures nothing", remedy=_EXAMPLES)
        return Budget(measurements=int(count)) if count else Budget(seconds=float(number) * _UNITS[unit])


@dataclass(frozen=True)
class Remote:
    """Another machine to measure on: a TVM RPC tracker's host and port, and the key of the devices that it lends."""

    host: str
    port: int
    key: str

    @staticmethod
    def parse(address: str, key: str) -> Remote:
        """`host:port`, or `[IPv6]:port`. Raises InputError."""
        host, colon, port = address.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise InputError(f"cannot read the address of a tracker '{address}'", remedy="Write it as HOST:PORT.")
        if not key:
            raise InputError("the key of the devices at the tracker is missing", remedy="Name it with --rpc-key.")
        return Remote(host, int(port), key)


@dataclass(frozen=True)
class Tuning:
    """How plans of kernels are chosen.

    `budget`: measure first; None: only look up what was measured before. `records`: a folder for the measurements
    instead of the one in the user's cache. `use_records=False`: neither, closed forms decide. `remote`: where to
    measure; None: here. `search`: spend the budget on functions that no kernel family covers too. `compact`: take no
    plan for which a packed weight grows where another does without, even if it is faster.
    """

    budget: Budget | None = None
    records: str | None = None
    use_records: bool = True
    remote: Remote | None = None
    search: bool = False
    compact: bool = False

    @staticmethod
    def of(tune: Tuning | str | int | None, records: str | os.PathLike[str] | None = None) -> Tuning:
        """From what `graphopt.compile` takes: None, "off", a budget as text or as a number of measurements."""
        if isinstance(tune, Tuning):
            return tune
        folder = None if records is None else os.path.abspath(os.fspath(records))
        if tune == OFF:
            return Tuning(use_records=False)
        return Tuning(None if tune is None else Budget.parse(str(tune)), records=folder)


@dataclass(frozen=True)
class Tuned:
    """What was found out about one workload of a model.

    `workload`: its key. `calls`: how often the model computes it. `default` and `best` name a family and its plan;
    their seconds were measured side by side, and are None where nothing was measured. `measured` and `failed` count
    the candidates of this run; `known`: records held everything already.
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
