"""Targets of compilation: frozen descriptions of machines, one TOML file each.

Files come from the packages of entry-point group `graphopt.targets`, from the user's folder (`user_folder()`), or from
a path given instead of a name. A board is added by adding a file.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib.metadata
import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs

from graphopt.errors import TargetError
from graphopt.hardware import processor as host_cpu
from graphopt.hardware import target_file
from graphopt.util.codec import decode, encode, stored_as

_ENTRY_POINTS = "graphopt.targets"


@dataclass(frozen=True)
class Gpu:
    """The limits of a CUDA device that schedules use; `arch` is its compute architecture (`sm_90`)."""

    arch: str
    max_threads_per_block: int = 1024
    shared_memory_bytes: int = 49152
    warp_size: int = 32


@dataclass(frozen=True)
class Target:
    """A machine to compile for. Equal descriptions are equal targets, whatever file they came from.

    Fields:
        name: what the user types (`x86:znver4`).
        kind: "cpu" or "cuda".
        machine: instruction set architecture of the host code, "x86_64" or "aarch64".
        cpu: LLVM's name of the processor.
        features: instruction sets (LLVM's names) that the code may use and the processor must have.
        tuning: further LLVM attributes, which do not add requirements.
        vector_bits: width of the vectors that schedules use.
        cores: number of physical cores.
        l1_kib, l2_kib, l3_kib: data caches that one core can use (0: none).
        gpu: for kind "cuda".
    """

    name: str
    summary: str
    kind: str
    machine: str
    cpu: str
    features: tuple[str, ...] = ()
    tuning: tuple[str, ...] = ()
    vector_bits: int = 128
    cores: int = 1
    l1_kib: int = 32
    l2_kib: int = 256
    l3_kib: int = 0
    gpu: Gpu | None = None
    detect: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False, metadata=stored_as(None))
    source: Path | None = field(default=None, compare=False, repr=False, metadata=stored_as(None))

    @property
    def family(self) -> str:
        """The name before the colon: `host`, `x86`, `arm`, `cuda`, or a family of the user's own."""
        return self.name.partition(":")[0]

    @property
    def triple(self) -> str:
        """LLVM's target triple of the host code."""
        return f"{self.machine}-linux-gnu"

    @property
    def vector_registers(self) -> int:
        """Architectural vector registers of `vector_bits`."""
        return 32 if self.machine == "aarch64" or "avx512f" in self.features else 16

    @property
    def dot_product(self) -> str:
        """The best instruction set for dot products of bytes: one of `features`, or "" if there is none."""
        return next((f for f in ("avx512vnni", "avxvnni", "i8mm", "dotprod") if f in self.features), "")

    @property
    def multiplies_bfloat16(self) -> bool:
        """Whether there are instructions that sum products of bfloat16 in float32."""
        return bool({"avx512bf16", "bf16"} & set(self.features))

    def runs_here(self) -> bool:
        """Whether this machine's processor can run the host code (GPUs are not checked)."""
        here = host_cpu.current()
        return here.machine == self.machine and not host_cpu.missing(self.features, here)

    def to_toml(self) -> str:
        """Return the complete description as the text of a file that `load` reads."""
        return target_file.write({name: value for name, value in encode(self).items() if name != "name"})

    @staticmethod
    def load(name: str | os.PathLike[str]) -> Target:
        """The target of that name, or the one described by the TOML file at that path.

        Raises TargetError for a name that no file has (with the nearest ones) and for a file that says
        something wrong (with the file and the key).
        """
        if isinstance(name, os.PathLike) or name.endswith(".toml") or os.sep in name:
            return _read(Path(name), ())
        return host() if name == "host" else _named(name, ())


def load(target: Target | str | os.PathLike[str]) -> Target:
    """`target` itself, or `Target.load` of a name or path."""
    return target if isinstance(target, Target) else Target.load(target)


def user_folder() -> Path:
    """Where a user's own target files are looked for."""
    return Path(platformdirs.user_config_dir("graphopt")) / "targets"


def files() -> dict[str, Path]:
    """Return target files by name. The user's folder takes precedence over installed packages; `host` has no file."""
    found: dict[str, Path] = {}
    for folder in (*_installed_folders(), user_folder()):
        for path in sorted(folder.glob("*.toml")):
            found[_name_of(path)] = path
    return found


def names() -> list[str]:
    """Return every name that `Target.load` accepts, `host` first."""
    return ["host", *sorted(files())]


def host() -> Target:
    """Return the machine that this process runs on.

    This is the most capable specific processor that it is known to be, or else the most capable generic one whose
    instruction sets it has, with its own features, cores and caches. Raises TargetError if none fits.
    """
    here = host_cpu.current()
    targets = [_named(name, ()) for name in sorted(files())]
    fitting = [
        t
        for t in targets
        if t.kind == "cpu" and t.machine == here.machine and set(t.features) <= (here.features or set())
    ]
    if not fitting:
        raise TargetError(
            f"no target describes this machine ({here.model_name}, {here.machine})",
            remedy="name a target or a TOML file instead of host",
        )
    known = [t for t in fitting if t.detect and _detected(t.detect, here.identity)]
    generic = [t for t in fitting if not t.detect]
    best = max(known or generic, key=lambda t: (len(t.features), t.name))
    features = tuple(f for f in host_cpu.FEATURES[here.machine] if f in (here.features or ()))
    return dataclasses.replace(
        best,
        name="host",
        summary=f"this machine: {here.model_name}, {here.cores} cores, as {best.name}",
        features=features,
        cores=here.cores,
        l1_kib=here.cache_kib.get(1, best.l1_kib),
        l2_kib=here.cache_kib.get(2, best.l2_kib),
        l3_kib=here.cache_kib.get(3, best.l3_kib),
    )


def _detected(detect: Mapping[str, Any], identity: Mapping[str, str | int]) -> bool:
    for key, wanted in detect.items():
        actual = identity.get(key.removesuffix("s"))
        if isinstance(wanted, list):
            if not isinstance(actual, int) or not any(low <= actual <= high for low, high in wanted):
                return False
        elif actual != wanted:
            return False
    return True


@functools.cache
def _installed_folders() -> list[Path]:
    """The folders of the packages that entry points name, found without importing them."""
    folders = []
    for entry in importlib.metadata.entry_points(group=_ENTRY_POINTS):
        spec = importlib.util.find_spec(entry.module)
        folders += [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
    return folders


def _named(name: str, chain: tuple[str, ...]) -> Target:
    available = files()
    if name not in available:
        near = difflib.get_close_matches(name, ["host", *available], n=3, cutoff=0.4)
        family = [n for n in available if n.startswith(name.partition(":")[0] + ":")]
        choices = ", ".join(dict.fromkeys(near + family)) or ", ".join(["host", *available])
        raise TargetError(
            f"there is no target {name!r}",
            remedy=f"nearest: {choices}; or use the path of a TOML file, or put one into {user_folder()}",
        )
    return _read(available[name], chain)


def _read(path: Path, chain: tuple[str, ...]) -> Target:
    """The target described by a file; `chain` holds the files whose `base` led here."""
    if str(path) in chain:
        raise TargetError("key 'base' leads back to this file", where=str(path))
    table = target_file.read(path)
    base_name = table.pop("base", None)
    values: dict[str, Any] = {}
    if base_name is not None:
        base = host() if base_name == "host" else _named(base_name, (*chain, str(path)))
        values = encode(base)
    for key, value in table.items():
        if key == "features":
            values[key] = list(dict.fromkeys([*values.get(key, ()), *value]))
        elif key == "gpu":
            values[key] = {**(values.get(key) or {}), **value}
        else:
            values[key] = value
    target_file.check_whole(path, values)
    values.pop("detect", None)
    values["name"] = _name_of(path)
    values.setdefault("gpu", None)
    values.setdefault("features", [])
    values.setdefault("tuning", [])
    return dataclasses.replace(decode(Target, values), detect=table.get("detect", {}), source=path)


def _name_of(path: Path) -> str:
    return path.stem.replace("-", ":", 1)
