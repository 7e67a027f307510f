"""Bundling of TVM's runtime libraries with an artifact, so that a device needs no TVM.

For machines of this kind they come from the installed packages; for others, from the wheels of exactly the pinned
versions, downloaded with pip into the user's cache. In both cases the SHA-256 listed here is checked.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from graphopt.errors import CompileError
from graphopt.hardware import processor as cpu
from graphopt.hardware.target import Target

_PYTHON = "3.11"  # wheels of tvm-ffi differ by Python version; their library does the same in each


@dataclass(frozen=True)
class _Library:
    """A library: the requirement whose wheel contains it, its path there, and its SHA-256 for each machine."""

    requirement: str
    member: str
    sha256: dict[str, str]

    @property
    def name(self) -> str:
        return Path(self.member).name


_TVM = "apache-tvm==0.27.0.post1"
_FFI_LIBRARY = _Library(
    "apache-tvm-ffi==0.1.14.post1",
    "tvm_ffi/lib/libtvm_ffi.so",
    {
        "x86_64": "e44372c658f0b5b6833f29402edfdd49d14a1e8ca50999d7e099f7c1f0822baa",
        "aarch64": "673d816bd962daddb55d8b0f8ae137e797500307951d0f721227731df0c13e24",
    },
)
_RUNTIME_LIBRARY = _Library(
    _TVM,
    "tvm/lib/libtvm_runtime.so",
    {
        "x86_64": "43544bbeaea3cd3ffa919f7eac77244753aff28d1440c42f1ba8df03fa6e3948",
        "aarch64": "ba06950fac134b8d71549111fad2c6605cd6f738061fe0482f217c37ccbdff05",
    },
)
_CUDA_LIBRARY = _Library(
    _TVM,
    "tvm/lib/libtvm_runtime_cuda.so",
    {
        "x86_64": "38782fe727adf51a82fa93de2a003044e16cd421564864a340dbd7f341215ffe",
        "aarch64": "c277ef1b0b4afef83d0fa99f50b7ea72632c64a7020ce7ce887d225de13266e6",
    },
)


def bundle(target: Target, folder: Path) -> tuple[str, ...]:
    """Copy the runtime libraries for `target` into `folder`; return their names in loading order.

    Raises CompileError if a library can be neither found nor downloaded, or is not the expected one.
    """
    wanted = [_FFI_LIBRARY, _RUNTIME_LIBRARY, *([_CUDA_LIBRARY] if target.kind == "cuda" else [])]
    for library in wanted:
        shutil.copyfile(_find(library, target.machine), folder / library.name)
    return tuple(library.name for library in wanted)


def _find(library: _Library, machine: str) -> Path:
    if machine == cpu.machine():
        installed = _installed(library)
        if installed is not None and _digest(installed) == library.sha256[machine]:
            return installed
    kept = cached(library, machine)
    if not kept.is_file() or _digest(kept) != library.sha256[machine]:
        _fetch(library, machine, kept)
    return kept


def cached(library: _Library, machine: str) -> Path:
    """Return where a downloaded library of another machine is kept."""
    folder = Path(platformdirs.user_cache_dir("graphopt")) / "runtime"
    return folder / library.requirement.replace("==", "-") / machine / library.name


def _installed(library: _Library) -> Path | None:
    package, _, rest = library.member.partition("/")
    spec = importlib.util.find_spec(package)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(place) / rest).is_file():
            return Path(place) / rest
    return None


def _fetch(library: _Library, machine: str, place: Path) -> None:
    """Download the wheel and keep the library, once its digest is verified."""
    where = f"{library.name} for {machine}"
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=place.parent) as name:
            wheel = _download(library, machine, Path(name))
            with zipfile.ZipFile(wheel) as archive:
                extracted = Path(archive.extract(library.member, name))
            if _digest(extracted) != library.sha256[machine]:
                raise CompileError(
                    f"{wheel.name} contains an unexpected file: its SHA-256 differs",
                    where=where,
                    remedy="check which package index pip uses (pip config list)",
                )
            extracted.replace(place)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise CompileError(
            f"cannot be put into the cache {place.parent}: {error}", where=where, remedy="make it writable"
        ) from error


def _download(library: _Library, machine: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--platform", f"manylinux_2_28_{machine}"]
    command += ["--python-version", _PYTHON, "--implementation", "cp", "--dest", str(folder), library.requirement]
    result = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    wheels = sorted(folder.glob("*.whl"))
    if result.returncode or not wheels:
        lines = [line for line in result.stderr.splitlines() if "ERROR" in line] or ["pip said nothing"]
        raise CompileError(
            f"pip could not download {library.requirement}: {lines[-1]}",
            where=f"{library.name} for {machine}",
            remedy="go online once (the file is then kept in the cache), or compile without --bundle-runtime and "
            f"put {library.name} from the wheel of {library.requirement} onto the device yourself",
        )
    return wheels[0]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
