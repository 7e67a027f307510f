"""The processor of this machine: its architecture, model and instruction sets, read from the kernel.

Feature names are LLVM's. Only those that code generation may use are listed: a processor that lacks one of the others
(random numbers, cryptography, cache control) can still run the code.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from graphopt.errors import TargetError

LIMIT = "GRAPHOPT_HOST_FEATURES"
"""The environment variable that limits the instruction sets of this processor (see `limited`)."""

# LLVM's name of a feature -> the flags of /proc/cpuinfo that together imply it.
_X86_FLAGS: Mapping[str, tuple[str, ...]] = {
    "sse3": ("pni",),
    "ssse3": ("ssse3",),
    "sse4.1": ("sse4_1",),
    "sse4.2": ("sse4_2",),
    "sse4a": ("sse4a",),
    "popcnt": ("popcnt",),
    "avx": ("avx",),
    "avx2": ("avx2",),
    "f16c": ("f16c",),
    "fma": ("fma",),
    "bmi": ("bmi1",),
    "bmi2": ("bmi2",),
    "lzcnt": ("abm",),
    "movbe": ("movbe",),
    "gfni": ("gfni",),
    "avxvnni": ("avx_vnni",),
    "avx512f": ("avx512f",),
    "avx512cd": ("avx512cd",),
    "avx512bw": ("avx512bw",),
    "avx512dq": ("avx512dq",),
    "avx512vl": ("avx512vl",),
    "avx512ifma": ("avx512ifma",),
    "avx512vbmi": ("avx512vbmi",),
    "avx512vbmi2": ("avx512_vbmi2",),
    "avx512vnni": ("avx512_vnni",),
    "avx512bitalg": ("avx512_bitalg",),
    "avx512vpopcntdq": ("avx512_vpopcntdq",),
    "avx512bf16": ("avx512_bf16",),
    "avx512fp16": ("avx512_fp16",),
    "amx-tile": ("amx_tile",),
    "amx-int8": ("amx_int8",),
    "amx-bf16": ("amx_bf16",),
}
_ARM_FLAGS: Mapping[str, tuple[str, ...]] = {
    "fp-armv8": ("fp",),
    "neon": ("asimd",),
    "crc": ("crc32",),
    "lse": ("atomics",),
    "rdm": ("asimdrdm",),
    "rcpc": ("lrcpc",),
    "fullfp16": ("fphp", "asimdhp"),
    "fp16fml": ("asimdfhm",),
    "dotprod": ("asimddp",),
    "complxnum": ("fcma",),
    "jsconv": ("jscvt",),
    "i8mm": ("i8mm",),
    "bf16": ("bf16",),
    "sve": ("sve",),
    "sve2": ("sve2",),
}
FEATURES: Mapping[str, Mapping[str, tuple[str, ...]]] = {"x86_64": _X86_FLAGS, "aarch64": _ARM_FLAGS}

# The levels of the x86-64 psABI: what each adds to the one before.
_X86_LEVELS: Mapping[str, tuple[str, ...]] = {
    "x86-64": (),
    "x86-64-v2": ("sse3", "ssse3", "sse4.1", "sse4.2", "popcnt"),
    "x86-64-v3": ("avx", "avx2", "f16c", "fma", "bmi", "bmi2", "lzcnt", "movbe"),
    "x86-64-v4": ("avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"),
}


@dataclass(frozen=True)
class Cpu:
    """A processor. `features` is None if the kernel does not list them (then nothing can be checked).

    `identity` contains the numbers that `detect` tables of target files are compared with: `vendor`, `family` and
    `model` on x86-64, `implementer` and `part` on AArch64.
    """

    machine: str
    model_name: str
    features: frozenset[str] | None
    identity: Mapping[str, str | int]
    cores: int
    cache_kib: Mapping[int, int]


def machine() -> str:
    """Return the architecture as in targets: `x86_64`, `aarch64`, or the system's name of any other."""
    name = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


def missing(required: tuple[str, ...], cpu: Cpu) -> list[str]:
    """The features among `required` that `cpu` is known to lack."""
    return [] if cpu.features is None else [name for name in required if name not in cpu.features]


def current() -> Cpu:
    """Return the processor that this process runs on, with instruction sets limited by `GRAPHOPT_HOST_FEATURES`.

    Raises TargetError if that variable contains an unknown name, or something that the processor lacks.
    """
    here = detected()
    wanted = os.environ.get(LIMIT, "").strip()
    return limited(here, wanted) if wanted else here


def limited(here: Cpu, wanted: str) -> Cpu:
    """Return `here` with only the instruction sets in `wanted`.

    `wanted` is a comma-separated list of LLVM feature names and x86-64 levels (`x86-64-v3`, or `x86-64-v3,avxvnni`). A
    level stands for everything that it includes. Raises TargetError for an unknown name, and for a feature that `here`
    lacks, because code for it would crash.
    """
    table = FEATURES.get(here.machine, {})
    levels = x86_levels() if here.machine == "x86_64" else {}
    asked: set[str] = set()
    for name in filter(None, (part.strip() for part in wanted.split(","))):
        if name not in table and name not in levels:
            near = difflib.get_close_matches(name, [*levels, *table], n=3, cutoff=0.4) or [*levels, *table]
            raise TargetError(f"{here.machine} has no {name!r}", where=LIMIT, remedy=f"nearest: {', '.join(near)}")
        asked.update(levels.get(name, (name,)))
    features = tuple(name for name in table if name in asked)
    if lacking := missing(features, here):
        raise TargetError(
            f"this processor ({here.model_name}) lacks {', '.join(lacking)}",
            where=LIMIT,
            remedy="list only features that it has, or unset the variable",
        )
    return dataclasses.replace(here, features=frozenset(features))


def x86_levels() -> dict[str, tuple[str, ...]]:
    """Each level of x86-64 with every feature that it includes, the lowest first."""
    levels: dict[str, tuple[str, ...]] = {}
    below: tuple[str, ...] = ()
    for name, added in _X86_LEVELS.items():
        levels[name] = below = (*below, *added)
    return levels


@functools.cache
def detected() -> Cpu:
    """The processor that this process runs on, as the kernel describes it."""
    try:
        fields = _fields(Path("/proc/cpuinfo").read_text(errors="replace"))
    except OSError:
        fields = {}
    name = machine()
    flags = fields.get("flags", fields.get("Features"))
    table = FEATURES.get(name, {})
    features = None if flags is None else frozenset(_known(table, flags.split()))
    return Cpu(
        machine=name,
        model_name=fields.get("model name", fields.get("Model", name)),
        features=features,
        identity=_identity(fields),
        cores=cores(),
        cache_kib=_caches(),
    )


def allowed() -> list[int]:
    """The numbers of the CPUs (hardware threads) that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _known(table: Mapping[str, tuple[str, ...]], flags: list[str]) -> list[str]:
    have = set(flags)
    return [feature for feature, needed in table.items() if have.issuperset(needed)]


def _fields(text: str) -> dict[str, str]:
    """Return the `name : value` lines of /proc/cpuinfo, with the first processor's value of each."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name.strip(), value.strip())
    return fields


def _identity(fields: Mapping[str, str]) -> dict[str, str | int]:
    identity: dict[str, str | int] = {}
    if "vendor_id" in fields:
        identity["vendor"] = fields["vendor_id"]
    for key, field in (
        ("family", "cpu family"),
        ("model", "model"),
        ("implementer", "CPU implementer"),
        ("part", "CPU part"),
    ):
        try:
            identity[key] = int(fields[field], 0)
        except (KeyError, ValueError):
            continue
    return identity


def cores() -> int:
    """Return the physical cores available to this process: two threads of one core do not speed up vector code."""
    seen = set()
    for index in allowed():
        try:
            path = Path(f"/sys/devices/system/cpu/cpu{index}/topology/thread_siblings_list")
            seen.add(path.read_text().strip())
        except OSError:
            seen.add(str(index))
    return max(1, len(seen))


def _caches() -> dict[int, int]:
    """Cache level -> KiB of data cache that the first core reaches at that level."""
    sizes: dict[int, int] = {}
    for entry in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            if (entry / "type").read_text().strip() == "Instruction":
                continue
            sizes[int((entry / "level").read_text())] = int((entry / "size").read_text().strip().removesuffix("K"))
        except (OSError, ValueError):
            continue
    return sizes
