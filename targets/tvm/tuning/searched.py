"""Schedules that a search found for functions that no kernel family covers: storage and reuse.

A schedule is stored as TVM's trace: the steps that created it, each of which TVM checks when it is replayed. A trace
refers to blocks by name, so its function is stored with it, and its schedule is used for any structurally equal
function, whatever its names.
"""

from __future__ import annotations

import base64
import json
import logging
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tvm
import tvm_ffi
from tvm import ir, s_tir, tirx
from tvm.s_tir import Schedule
from tvm.s_tir.schedule import Trace

from graphopt.hardware.target import Target
from graphopt.targets.tvm.kernels.common.expand import keep_special_values
from graphopt.targets.tvm.lowering.provenance import SCHEDULE
from graphopt.targets.tvm.tuning.messages import last_line
from graphopt.targets.tvm.tuning.records import SHIPPED, Database
from graphopt.util.codec import decode, encode

_LOG = logging.getLogger(__name__)

SUFFIX = ".schedules"
REFUSED = (RuntimeError, ValueError, TypeError, IndexError)
"""The exceptions that TVM raises for steps that it rejects."""

STEPS = frozenset(
    (
        *("GetSBlock", "GetLoops", "GetChildBlocks", "GetProducers", "GetConsumers", "GetOutputBlocks"),
        *("SampleCategorical", "SamplePerfectTile", "SamplePartitionedTile", "SampleComputeLocation"),
        *("Fuse", "Split", "LoopPartition", "Merge", "Reorder", "AddUnitLoop", "Parallel", "Vectorize", "Unroll"),
        *("ComputeAt", "ReverseComputeAt", "ComputeInline", "ReverseComputeInline", "CacheRead", "CacheWrite"),
        *("RFactor", "DecomposeReduction", "SetScope", "Annotate", "Unannotate", "EnterPostproc"),
    )
)
"""The steps that cannot change what is computed; others are not accepted from a file."""
NOTES = ("meta_schedule.", "pragma_auto_unroll_max_step", "pragma_unroll_explicit")
"""The prefixes of annotations that a file may set: others could contain code."""


@dataclass(frozen=True)
class Found:
    """The result of searching for a schedule of a function on a target.

    `workload` is the hash of the function's structure, `function` the function itself, as text. `general`: seconds with
    the generic schedule; `seconds` and `trace`: the best schedule that beats it, None if there is none. `measured`
    candidates were tried so far; `time`: when, in seconds since 1970.
    """

    target: str
    toolchain: str
    workload: str
    function: str
    general: float
    seconds: float | None
    trace: list[Any] | None
    measured: int
    time: float

    def to_line(self) -> str:
        """The record as a line of JSON, without the line's end."""
        return json.dumps(encode(self), separators=(",", ":"))

    @staticmethod
    def of_line(line: str) -> Found:
        """Parse what `to_line` wrote. Raises ValueError, TypeError or LookupError for anything else."""
        found = decode(Found, json.loads(line))
        if (found.seconds is None) != (found.trace is None):
            raise ValueError("a schedule without its time, or a time without its schedule")
        if found.trace is not None:
            check(found.trace)
        return found


def check(trace: Any) -> None:
    """Raise ValueError, TypeError or IndexError unless a trace consists of steps that cannot change what is computed.

    Anything that would crash TVM is rejected too: null, tiles of size zero, decisions that belong to no step.
    """
    if not isinstance(trace, list) or len(trace) != 2 or not all(isinstance(part, list) for part in trace):
        raise ValueError("a trace is a list of steps and a list of decisions")
    steps, decisions = trace
    for kind, _inputs, notes, _outputs in steps:
        if kind not in STEPS:
            raise ValueError(f"{kind} is not a step that a schedule in a file may contain")
        if kind == "Annotate" and not str(notes[:1]).startswith(tuple(f"['{name}" for name in NOTES)):
            raise ValueError(f"{notes} is not an annotation that a file may contain")
    for place, decision in decisions:
        if not 0 <= place < len(steps) or not str(steps[place][0]).startswith("Sample"):
            raise ValueError(f"step {place} decides nothing")
        if isinstance(decision, list) and any(size < 1 for size in decision):
            raise ValueError(f"tiles of {decision}")
    if _holds_null(trace):
        raise ValueError("a trace must not contain null")


def _holds_null(value: Any) -> bool:
    return value is None or (isinstance(value, list) and any(_holds_null(part) for part in value))


class Searched(Database[Found]):
    """The results of searches for one target."""

    def __init__(self, target: Target, folder: Path | None = None, shipped: Path = SHIPPED) -> None:
        """`folder` holds the user's files; `records.user_folder()` by default. It need not exist."""
        super().__init__(target, SUFFIX, Found.of_line, folder, shipped)

    def schedule(self, func: tirx.PrimFunc) -> tirx.PrimFunc | None:
        """The function with the schedule that was found for it; None where there is none, or it does not fit."""
        found = self.find(key(func))
        if found is None or found.trace is None:
            return None
        try:
            known = from_text(found.function)
            if not tvm_ffi.structural_equal(bare(func), known):
                raise ValueError("it is for another function")
            made = finished(replay(known, found.trace))
        except REFUSED as error:
            _LOG.warning("%s: the schedule for %s is skipped: %s", self.path, found.workload, last_line(str(error)))
            return None
        return tirx.PrimFunc(made.params, made.body, made.ret_type, func.attrs).with_attr(SCHEDULE, "search")


def bare(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """Return the function without its annotations, which is what its key and its schedules depend on."""
    plain = tirx.PrimFunc(func.params, func.body, func.ret_type, None)
    return plain.with_attrs({"global_symbol": "main", "tirx.noalias": True})


def key(func: tirx.PrimFunc) -> str:
    """Return the name of a function in the records: equal for structurally equal functions."""
    return f"{tvm_ffi.structural_hash(bare(func)):016x}"


def to_text(func: tirx.PrimFunc) -> str:
    return base64.b64encode(zlib.compress(ir.save_json(func).encode(), 9)).decode()


def from_text(text: str) -> tirx.PrimFunc:
    """Parse what `to_text` wrote. Raises ValueError, TypeError or RuntimeError for anything else."""
    try:
        func = ir.load_json(zlib.decompress(base64.b64decode(text)).decode())
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if not isinstance(func, tirx.PrimFunc):
        raise ValueError("it contains no function")
    return func


def replay(func: tirx.PrimFunc, trace: Sequence[Any]) -> tirx.PrimFunc:
    """Apply the steps of a trace to the function. Raises what REFUSED lists."""
    sch = Schedule(tvm.IRModule({"main": func}))
    Trace.apply_json_to_schedule(trace, sch)
    return sch.mod["main"]


def finished(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """A scheduled function as it is compiled: like those that the rules for CPUs schedule."""
    return keep_special_values(func).with_attr("tirx.is_scheduled", True)


def is_searchable(func: tirx.PrimFunc) -> bool:
    """Return whether a search supports the function: of known sizes, of no kernel family, made of blocks.

    A function with data-dependent indices cannot be measured, because valid inputs are unknown.
    """
    shapes = [param.shape for param in func.params if isinstance(param.ty, tirx.BufferType)]
    if len(shapes) != len(func.params) or not all(isinstance(n, tirx.IntImm) and n for s in shapes for n in s):
        return False
    blocks: list[s_tir.SBlock] = []
    loads: list[ir.TensorLoad] = []
    stores: list[tirx.BufferStore] = []
    kinds = [(s_tir.SBlock, blocks.append), (ir.TensorLoad, loads.append), (tirx.BufferStore, stores.append)]
    tvm_ffi.structural_walk(func.body, kinds)
    if not any(block.iter_vars for block in blocks) or any("kernel" in block.annotations for block in blocks):
        return False
    inner: list[ir.TensorLoad] = []
    for access in (*loads, *stores):
        for index in access.indices:
            tvm_ffi.structural_walk(index, (ir.TensorLoad, inner.append))
    return not inner
