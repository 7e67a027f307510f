"""Records of measurements: which plan of which family was fastest for a workload on a target.

A database consists of files of JSON lines, one record per line, one file per target: those in the package (`SHIPPED`),
and those in a folder of the user's, which take precedence. In each place the newest record of a workload counts. Files
are merged by putting them into one folder, or by appending one to the other. A line is appended atomically under a
lock, so that several processes can write at once; an unreadable line is skipped with a warning.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import platformdirs

from graphopt.errors import CompileError
from graphopt.hardware.target import Target

_LOG = logging.getLogger(__name__)

SHIPPED = Path(__file__).parent / "records"
SUFFIX = ".jsonl"
TOOLCHAIN = "apache-tvm"


@dataclass(frozen=True)
class Trial:
    """One candidate: its family with that family's version, its plan, its time; None if it failed."""

    family: str
    version: int
    plan: tuple[int, ...]
    seconds: float | None


@dataclass(frozen=True)
class Record:
    """The result of tuning a workload on a target.

    `trials` are all measured candidates, `best` the index of the fastest; `threads` is the number of threads of each
    measurement. `complete`: all candidates were measured. `time`: of the measurement, in seconds since 1970.
    """

    target: str
    toolchain: str
    workload: str
    trials: tuple[Trial, ...]
    best: int
    threads: int
    complete: bool
    time: float

    @property
    def winner(self) -> Trial:
        return self.trials[self.best]

    def to_line(self) -> str:
        """The record as a line of JSON, without the line's end."""
        table = asdict(self)
        table["trials"] = [[t.family, t.version, list(t.plan), t.seconds] for t in self.trials]
        return json.dumps(table, separators=(",", ":"))

    @staticmethod
    def of_line(line: str) -> Record:
        """Parse what `to_line` wrote. Raises ValueError, TypeError or KeyError for anything else."""
        table = json.loads(line)
        trials = tuple(_trial(*row) for row in table["trials"])
        best = int(table["best"])
        if not 0 <= best < len(trials) or trials[best].seconds is None:
            raise ValueError("the best trial is not among those that were measured")
        return Record(
            target=str(table["target"]),
            toolchain=str(table["toolchain"]),
            workload=current_key(str(table["workload"])),
            trials=trials,
            best=best,
            threads=int(table["threads"]),
            complete=bool(table["complete"]),
            time=float(table["time"]),
        )


def _trial(family: str, version_: int, plan: list[int], seconds: float | None) -> Trial:
    numbers = tuple(int(number) for number in plan)
    return Trial(str(family), int(version_), numbers, None if seconds is None else float(seconds))


_OLD_KEY = re.compile(r"(conv .* v\d+|matmul m\S+ n\S+ k\S+)(?: (float16|float32))?( blocked| packed)?")


def current_key(key: str) -> str:
    """Return the current form of a workload's key: one without element types, of an earlier version, is float32.

    Keys of matmuls had the type of the operands, which was that of the result too; sums were in float32.
    """
    old = _OLD_KEY.fullmatch(key)
    if old is None:
        return key
    sizes, dtype, rest = old[1], old[2] or "float32", old[3] or ""
    return f"{sizes} {dtype}*{dtype}+float32->{dtype}{rest}"


def canonical(target: Target) -> str:
    """Return what measurements depend on, as text: processor, instructions, vector width, cores, but not the name."""
    features = ",".join(sorted({*target.features, *target.tuning}))
    return f"{target.machine} {target.cpu} {target.vector_bits} bits {target.cores} cores {features}"


def file_name(target: Target, suffix: str = SUFFIX) -> str:
    """Return the name of the file with a target's records."""
    digest = hashlib.sha256(canonical(target).encode()).hexdigest()[:8]
    return f"{target.cpu}-{target.vector_bits}-{target.cores}c-{digest}{suffix}"


def toolchain() -> str:
    """Return the version of the compiler, which code and therefore times depend on."""
    return f"{TOOLCHAIN} {version(TOOLCHAIN)}"


def user_folder() -> Path:
    """Return the folder of the user's own records."""
    return Path(platformdirs.user_cache_dir("graphopt")) / "records"


class Line(Protocol):
    """An entry of a database: one line of JSON about one workload, measured on a target at some time."""

    @property
    def target(self) -> str: ...
    @property
    def toolchain(self) -> str: ...
    @property
    def workload(self) -> str: ...
    @property
    def time(self) -> float: ...
    def to_line(self) -> str:
        """The record as a line of JSON, without the line's end."""
        ...


Kind = TypeVar("Kind", bound=Line)


class Database(Generic[Kind]):
    """The entries for one target: the newest of each workload, the user's before those that ship with the package."""

    def __init__(
        self, target: Target, suffix: str, of_line: Callable[[str], Kind], folder: Path | None, shipped: Path
    ) -> None:
        """Reads the files whose names end with `suffix`. `folder` holds the user's; None: `user_folder()`."""
        self.target = canonical(target)
        self.toolchain = toolchain()
        self.folder = folder or user_folder()
        self.path = self.folder / file_name(target, suffix)
        self._found: dict[str, Kind] = {}
        for place in (shipped, self.folder):
            self._found.update(self._newest(read_folder(place, suffix, of_line)))

    def __len__(self) -> int:
        return len(self._found)

    def find(self, workload: str) -> Kind | None:
        """Return what is known about a workload, given its key."""
        return self._found.get(workload)

    def add(self, record: Kind) -> None:
        """Add a record, here and in the user's file. Raises CompileError if it cannot be written."""
        self._found[record.workload] = record
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            append_line(self.path, record.to_line())
        except OSError as error:
            raise CompileError(
                f"the tuning records cannot be written: {error.strerror}",
                where=str(self.path),
                remedy="free some space, or choose another folder for them",
            ) from error

    def _newest(self, records: Iterable[Kind]) -> Mapping[str, Kind]:
        found: dict[str, Kind] = {}
        for record in records:
            if (record.target, record.toolchain) == (self.target, self.toolchain):
                other = found.get(record.workload)
                if other is None or record.time >= other.time:
                    found[record.workload] = record
        return found


class Records(Database[Record]):
    """The records of the fastest plans of kernel families."""

    def __init__(self, target: Target, folder: Path | None = None, shipped: Path = SHIPPED) -> None:
        """`folder` holds the user's files; `user_folder()` by default. It need not exist."""
        super().__init__(target, SUFFIX, Record.of_line, folder, shipped)


def read_folder(folder: Path, suffix: str, of_line: Callable[[str], Kind]) -> Iterator[Kind]:
    """Yield every record in the files of a folder, in the order of file names and lines."""
    for path in sorted(folder.glob(f"*{suffix}")):
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError as error:
            _LOG.warning("%s cannot be read: %s", path, error.strerror)
            continue
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                yield of_line(line)
            except (ValueError, TypeError, LookupError) as error:
                _LOG.warning("%s:%d: skipped, because it is not a tuning record (%s)", path, number, _reason(error))


def _reason(error: Exception) -> str:
    return f"no {error}" if isinstance(error, KeyError) else str(error)


def append_line(path: Path, line: str) -> None:
    """Append a line to a file, on a line of its own even if an earlier write was interrupted."""
    with path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        end = file.seek(0, os.SEEK_END)
        torn = b""
        if end:
            file.seek(end - 1)
            torn = b"" if file.read(1) == b"\n" else b"\n"
        file.write(torn + line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def to_json(record: Record) -> dict[str, Any]:
    """Return a record as JSON types, including the fastest trial itself."""
    winner = record.winner
    return {"workload": record.workload, "family": winner.family, "plan": list(winner.plan), "seconds": winner.seconds}
