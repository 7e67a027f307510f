"""The registry of converters: one small function per ONNX operator and range of schema versions."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graphopt.targets.tvm.lowering.call import Call
    from graphopt.targets.tvm.lowering.operand import Operand

Converter = Callable[["Call"], "Operand | Sequence[Operand | None]"]
"""Emits Relax for one node and returns its outputs; an unused output may be None."""


class Declined(Exception):
    """Raised by a converter that cannot lower a node; the reason is collected, and no traceback is shown."""


_CONVERTERS: dict[str, tuple[list[int], list[Converter]]] = {}


def converter(*ops: str, since: int = 1) -> Callable[[Converter], Converter]:
    """Register a function as the converter of `ops` since version `since` of their operator set.

    An operator of another domain than ONNX's own is written `domain::Operator`.
    """

    def register(function: Converter) -> Converter:
        for op in ops:
            versions, functions = _CONVERTERS.setdefault(op, ([], []))
            place = bisect.bisect(versions, since)
            if place and versions[place - 1] == since:
                raise ValueError(f"{op} has two converters since version {since}")
            versions.insert(place, since)
            functions.insert(place, function)
        return function

    return register


def find(op: str, version: int) -> Converter | None:
    """Return the converter of `op` for a version of its operator set, or None."""
    versions, functions = _CONVERTERS.get(op, ([], []))
    place = bisect.bisect(versions, version)
    return functions[place - 1] if place else None


def operators() -> list[str]:
    """Return every operator that has a converter, sorted."""
    return sorted(_CONVERTERS)
