"""The TOML form of a target: its keys, checks of their values, and errors that name the file and the key."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from graphopt.errors import TargetError
from graphopt.hardware import processor as cpu

Check = Callable[[Any], str]  # a value -> what is wrong with it, or ""


def _text(value: Any) -> str:
    return "" if isinstance(value, str) and value else "must be a non-empty string"


def _texts(value: Any) -> str:
    good = isinstance(value, list) and all(isinstance(v, str) and v for v in value)
    return "" if good else "must be a list of strings"


def _integer(low: int, high: int) -> Check:
    def check(value: Any) -> str:
        good = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        return "" if good else f"must be a whole number from {low} to {high}"

    return check


def _one_of(*choices: Any) -> Check:
    def check(value: Any) -> str:
        return "" if value in choices else f"must be one of {', '.join(map(str, choices))}"

    return check


def _arch(value: Any) -> str:
    good = isinstance(value, str) and value.startswith("sm_") and value[3:].rstrip("af").isdigit()
    return "" if good else 'must be a compute architecture such as "sm_90"'


def _ranges(value: Any) -> str:
    good = isinstance(value, list) and all(
        isinstance(r, list) and len(r) == 2 and all(isinstance(n, int) for n in r) for r in value
    )
    return "" if good else "must be a list of [first, last] pairs of whole numbers"


_KEYS: Mapping[str, Check] = {
    "base": _text,
    "summary": _text,
    "kind": _one_of("cpu", "cuda"),
    "machine": _one_of(*cpu.FEATURES),
    "cpu": _text,
    "features": _texts,
    "tuning": _texts,
    "vector_bits": _one_of(128, 256, 512),
    "cores": _integer(1, 1024),
    "l1_kib": _integer(1, 1 << 20),
    "l2_kib": _integer(0, 1 << 24),
    "l3_kib": _integer(0, 1 << 24),
}
_GPU_KEYS: Mapping[str, Check] = {
    "arch": _arch,
    "max_threads_per_block": _integer(32, 4096),
    "shared_memory_bytes": _integer(1024, 1 << 24),
    "warp_size": _integer(1, 128),
}
_DETECT_KEYS: Mapping[str, Check] = {
    "vendor": _text,
    "family": _integer(0, 1 << 16),
    "models": _ranges,
    "implementer": _integer(0, 1 << 16),
    "part": _integer(0, 1 << 16),
}
_TABLES: Mapping[str, Mapping[str, Check]] = {"gpu": _GPU_KEYS, "detect": _DETECT_KEYS}
_REQUIRED = ("summary", "kind", "machine", "cpu", "vector_bits")


def read(path: Path) -> dict[str, Any]:
    """Return the checked tables of a target file, without its base. Raises TargetError."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise TargetError("there is no such target file", where=str(path)) from error
    except OSError as error:
        raise TargetError(f"cannot be read: {error.strerror}", where=str(path)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TargetError(f"is not valid TOML: {error}", where=str(path)) from error
    top = {key: value for key, value in table.items() if key not in _TABLES}
    _check(path, top, _KEYS, "")
    for name, keys in _TABLES.items():
        inner = table.get(name, {})
        if not isinstance(inner, dict):
            raise TargetError(f"key {name!r} must be a table", where=str(path))
        _check(path, inner, keys, f"{name}.")
    return table


def check_whole(path: Path, table: Mapping[str, Any]) -> None:
    """Check that a table, including the keys of its base, describes a complete target. Raises TargetError."""
    for key in _REQUIRED:
        if key not in table:
            raise TargetError(f"key {key!r} is missing", where=str(path), remedy="set it, or name a base")
    if (table["kind"] == "cuda") != (table.get("gpu") is not None):
        wrong = "needs a table [gpu]" if table["kind"] == "cuda" else "takes no table [gpu]"
        raise TargetError(f"key 'kind': {table['kind']} {wrong}", where=str(path))
    if table["kind"] == "cuda" and "arch" not in table["gpu"]:
        raise TargetError("key 'gpu.arch' is missing", where=str(path))
    for feature in table.get("features", ()):
        if feature not in cpu.FEATURES[table["machine"]]:
            known = list(cpu.FEATURES[table["machine"]])
            near = difflib.get_close_matches(feature, known, n=3, cutoff=0.3) or known
            raise TargetError(
                f"key 'features': {table['machine']} has no {feature!r}",
                where=str(path),
                remedy=f"nearest: {', '.join(near)}",
            )


def _check(path: Path, table: Mapping[str, Any], keys: Mapping[str, Check], prefix: str) -> None:
    for key, value in table.items():
        if key not in keys:
            known = [*keys, *(() if prefix else _TABLES)]
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5) or known
            raise TargetError(f"unknown key {prefix + key!r}", where=str(path), remedy=f"nearest: {', '.join(near)}")
        if wrong := keys[key](value):
            raise TargetError(f"key {prefix + key!r} {wrong}, not {value!r}", where=str(path))


def write(values: Mapping[str, Any]) -> str:
    """Return the keys of a target as TOML text; those that are None are omitted."""
    plain = {key: value for key, value in values.items() if value is not None and not isinstance(value, Mapping)}
    tables = {key: value for key, value in values.items() if isinstance(value, Mapping)}
    # JSON's notation of strings, numbers and lists of them is valid TOML.
    lines = [f"{key} = {json.dumps(value)}" for key, value in plain.items()]
    for key, table in tables.items():
        lines += [f"\n[{key}]", *(f"{name} = {json.dumps(value)}" for name, value in table.items())]
    return "\n".join(lines) + "\n"
