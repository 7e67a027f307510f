"""Linking of object files into a shared library for any machine, with the compiler in the package `ziglang`.

One linker serves the host and every board: no system compiler is needed, the oldest supported version of the C library
is the one that TVM's own wheels need, and equal objects give equal bytes (no build id, no debug paths).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import platformdirs

from graphopt.errors import CompileError

GLIBC = "2.28"  # what TVM's wheels (manylinux_2_28) need anyway


def link(objects: Sequence[Path], library: Path, machine: str) -> None:
    """Link `objects` into the shared `library` for `machine` ("x86_64" or "aarch64"). Raises CompileError."""
    command = [sys.executable, "-m", "ziglang", "cc", "-target", f"{machine}-linux-gnu.{GLIBC}", "-shared", "-fPIC"]
    command += ["-s", "-Wl,--build-id=none", "-Wl,--gc-sections", f"-Wl,-soname,{library.name}", "-o", str(library)]
    command += [str(path) for path in objects] + ["-lm"]
    with tempfile.TemporaryDirectory(prefix="graphopt-link-") as scratch:
        env = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": _cache() or scratch, "ZIG_LOCAL_CACHE_DIR": scratch}
        result = subprocess.run(command, capture_output=True, text=True, errors="replace", env=env, check=False)
    if result.returncode:
        raise CompileError(
            f"linking for {machine} failed:\n{result.stderr.strip()[-2000:]}",
            remedy="reinstall the package ziglang, and make sure that the disk has space",
        )


def _cache() -> str | None:
    """Return where zig caches what it builds once per machine; None if the user's cache folder is not writable."""
    folder = Path(platformdirs.user_cache_dir("graphopt")) / "zig"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return str(folder) if os.access(folder, os.W_OK) else None
