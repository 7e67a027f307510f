"""Read-only facts about the blocks of a PrimFunc, on which all schedule rules are based.

A block is described by how its memory accesses move with each of its loops: an access with coefficient 1 on a loop is
contiguous along it, 0 is a broadcast, `None` means that the address is not linear in that loop.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import tvm_ffi
from tvm import ir, s_tir, sym, tirx
from tvm.s_tir import Schedule
from tvm.s_tir.schedule import SBlockRV

from graphopt.targets.tvm.kernels.common.statements import loads
from graphopt.targets.tvm.tir_passes import exact, let

SPATIAL = 0  # IterVar.iter_type of a data-parallel axis
REDUCE = 2  # ... of a commutative reduction
SERIAL_WORK = 1 << 15
"""The number of operations below which starting threads costs more than it saves (some microseconds)."""


def extent(value: Any) -> int | None:
    """Return the loop or axis extent as an int, None if it is symbolic."""
    return int(value) if isinstance(value, tirx.IntImm | int) else None


@dataclass
class Axis:
    """A loop of a block: its extent (None: symbolic), kind, and the coefficient of each access along it."""

    var: tirx.Var
    size: int | None
    kind: int
    extent: Any = None
    loads: list[int | None] = field(default_factory=list)
    store: int | None = None
    branches: bool = False
    """Whether the loop's variable decides an `if_then_else`: vectors along it would be scalarized."""
    in_value: bool = False
    """Whether the loop's variable is used as a number (arange, one-hot), not only in addresses."""

    @property
    def contiguous(self) -> bool:
        """Whether vectors along this axis load and store contiguous (or broadcast) elements."""
        return not self.branches and self.store in (0, 1) and all(c in (0, 1) for c in self.loads)


@dataclass
class BlockInfo:
    """A leaf block: its axes in loop order, and its cost per innermost iteration in scalar operations."""

    rv: SBlockRV
    name: str
    axes: list[Axis]
    cost: int
    dtype: str

    @property
    def is_reduction(self) -> bool:
        return any(axis.kind == REDUCE for axis in self.axes)

    @property
    def is_plain(self) -> bool:
        """Whether all axes are spatial or reductions, so that loops may be reordered, split and fused."""
        return all(axis.kind in (SPATIAL, REDUCE) for axis in self.axes)

    def work(self) -> int | None:
        """The scalar operations of the whole block; None if an extent is symbolic."""
        return None if any(a.size is None for a in self.axes) else self.cost * math.prod(a.size or 0 for a in self.axes)


def child_blocks(sch: Schedule) -> list[SBlockRV]:
    """Return the blocks directly below the root block, in program order."""
    return list(sch.get_child_blocks(sch.get_sblock("root")))


def describe(sch: Schedule, block: SBlockRV) -> BlockInfo | None:
    """Return the facts about `block`, None if its loops are not simply its axes (opaque or hand-written code)."""
    stmt = sch.get(block)
    loops = [sch.get(loop) for loop in sch.get_loops(block)]
    if len(loops) != len(stmt.iter_vars):
        return None
    axes = []
    for loop, axis in zip(loops, stmt.iter_vars, strict=True):
        if extent(loop.extent) != extent(axis.dom.extent):
            return None
        axes.append(Axis(axis.var, extent(axis.dom.extent), int(axis.iter_type), axis.dom.extent))
    if not stmt.writes:
        return None
    _fill_accesses(stmt, axes)
    return BlockInfo(block, stmt.name_hint, axes, cost(stmt), str(stmt.writes[0].source.dtype))


def is_identity(indices: Sequence[Any], axes: Sequence[Any]) -> bool:
    """Return whether the indices are the axes in order; an axis of size one may be written as 0."""
    return len(indices) == len(axes) and all(
        index.same_as(axis.var) or (extent(axis.dom.extent) == 1 and extent(index) == 0)
        for index, axis in zip(indices, axes, strict=True)
    )


def _fill_accesses(stmt: s_tir.SBlock, axes: list[Axis]) -> None:
    loads: list[ir.TensorLoad] = []
    stores: list[tirx.BufferStore] = []
    branch_vars: set[Any] = set()
    value_vars: set[Any] = set()

    def on_call(call: Any) -> None:
        if getattr(call.op, "name", "").endswith(".if_then_else"):
            branch_vars.update(variables(call.args[0]))

    tvm_ffi.structural_walk(
        stmt.body,
        [(ir.TensorLoad, loads.append), (tirx.BufferStore, stores.append), (ir.Call, on_call)],
    )
    for store in stores:
        value_vars.update(_vars_outside_loads(store.value))
    for axis in axes:
        axis.branches = any(axis.var.same_as(v) for v in branch_vars)
        axis.in_value = any(axis.var.same_as(v) for v in value_vars)
        axis.loads = [_coefficient(load.source, load.indices, axis.var) for load in loads]
        found = {_coefficient(store.buffer, store.indices, axis.var) for store in stores}
        axis.store = found.pop() if len(found) == 1 else None


def variables(expr: Any) -> list[tirx.Var]:
    """Return every variable that occurs in `expr`."""
    found: list[tirx.Var] = []
    tvm_ffi.structural_walk(expr, [(tirx.Var, found.append)])
    return found


def _vars_outside_loads(value: Any) -> Iterable[tirx.Var]:
    inside: list[tirx.Var] = []
    tvm_ffi.structural_walk(value, [(ir.TensorLoad, lambda load: inside.extend(variables(load)))])
    everything = variables(value)
    # A variable counts as a value if it occurs more often than inside addresses.
    for var in everything:
        if sum(var.same_as(v) for v in everything) > sum(var.same_as(v) for v in inside):
            yield var


def _coefficient(buffer: tirx.Buffer, indices: Any, var: tirx.Var) -> int | None:
    """Return by how many elements the address moves when `var` increases by one."""
    total = 0
    stride: Any = 1
    for index, size in zip(reversed(list(indices)), reversed(list(buffer.shape)), strict=True):
        if any(var.same_as(v) for v in variables(index)):
            linear = sym.detect_linear_equation(index, [var])
            step = extent(linear[0]) if len(linear) else None
            if step is None or not isinstance(stride, int):
                return None
            total += step * stride
        size_now = extent(size)
        stride = stride * size_now if size_now is not None and isinstance(stride, int) else None
    return total


def loads_of(sch: Schedule, block: SBlockRV) -> list[ir.TensorLoad]:
    """Return what a block's body loads, in the order of `Axis.loads`."""
    return loads(sch.get(block).body)


def step_within(load: ir.TensorLoad, var: tirx.Var, size: int) -> int | None:
    """Return by how many elements the address moves with `var` inside pieces of `size` that begin at its multiples.

    That is more often linear than over the whole axis: `x[c // 8, h, c % 8]` moves by 1 with c in pieces of 8.
    """
    kind = str(var.ty.dtype)
    whole, part = tirx.Var("whole", kind), tirx.Var("part", kind)
    analyzer = sym.Analyzer()
    analyzer.bind(part, ir.Range(tirx.const(0, kind), tirx.const(size, kind)))

    def cut(other: tirx.Var) -> Any:
        return whole * size + part if other.same_as(var) else other

    indices = [
        analyzer.simplify(tvm_ffi.structural_map(index, (tirx.Var, cut), order="post")) for index in load.indices
    ]
    return _coefficient(load.source, indices, part)


def cost(stmt: s_tir.SBlock) -> int:
    """Return a rough count of scalar operations in a block's body."""
    count = 1

    def arithmetic(_: Any) -> None:
        nonlocal count
        count += 1

    def call(node: Any) -> None:
        nonlocal count
        name = getattr(node.op, "name", "")
        if not let.is_let(node) and not let.is_read(node) and name not in exact.CALLS:
            count += 1 if name.endswith((".if_then_else", ".likely")) else 10

    kinds: list[Any] = [(kind, arithmetic) for kind in (tirx.Add, tirx.Mul, tirx.Div, tirx.Max, tirx.Min)]
    tvm_ffi.structural_walk(stmt.body, [*kinds, (ir.Call, call)])
    return count


def is_unit(axis: Axis) -> bool:
    """Return whether the axis has extent one, so that it can be fused with any neighbour."""
    return axis.size == 1


def fusible(left: Axis, right: Axis) -> bool:
    """Return whether fusing two adjacent loops keeps every address linear in the fused variable."""
    if is_unit(left) or is_unit(right):
        return True
    if left.kind != right.kind or left.branches or right.branches or left.in_value or right.in_value:
        return False
    if right.size is None:
        return False  # division by a symbolic extent is slow, and TVM's analyses give up on it
    pairs = [*zip(left.loads, right.loads, strict=True), (left.store, right.store)]
    return all(a is not None and b is not None and a == b * right.size for a, b in pairs)


def trailing_group(axes: list[Axis], enough: int = 64) -> int:
    """Return the index of the first axis of the longest run of trailing axes that can be fused into one linear loop.

    A symbolic axis is included only while the run is shorter than `enough`: it is more useful as a separate loop.
    """
    start = len(axes) - 1
    while start > 0 and fusible(axes[start - 1], axes[start]):
        if axes[start - 1].size is None and (product(a.size for a in axes[start:]) or enough) >= enough:
            break
        # A unit axis in between is irrelevant: compare with the nearest axis that is not one.
        if is_unit(axes[start]) and start + 1 < len(axes):
            wide = next((a for a in axes[start:] if not is_unit(a)), None)
            if wide is not None and not fusible(axes[start - 1], wide):
                break
        start -= 1
    return start


def whole_vectors(axes: list[Axis], most: int, least: int) -> int:
    """Return the lanes of vectors along fused axes: from `least` to `most`, fewer if that keeps them in rows.

    From the quotients and remainders of a vector across rows, TVM does not see that it is contiguous, and each element
    of it becomes an access: rows of 7 or 14 blocks of 16 bytes are no multiple of 64.
    """
    rows = [product(axis.size for axis in axes[place:]) for place in range(1, len(axes))]
    lanes = most
    while lanes >= least and any(row is None or (row % lanes and lanes % row) for row in rows):
        lanes //= 2
    return lanes if lanes >= least else most


def product(sizes: Iterable[int | None]) -> int | None:
    """Return the product of extents, None if one is symbolic."""
    total = 1
    for size in sizes:
        if size is None:
            return None
        total *= size
    return total


def find_anchor(sch: Schedule, kernels: tuple[str, ...]) -> SBlockRV | None:
    """Return the one block annotated as the anchor of one of these kernel families, None if there is none."""
    found = [b for b in child_blocks(sch) if str(sch.get(b).annotations.get("kernel", "")) in kernels]
    return found[0] if len(found) == 1 else None


def index_of(sch: Schedule, block: SBlockRV) -> int:
    """Return the position of a block below the root."""
    stmt = sch.get(block)
    return next(i for i, other in enumerate(child_blocks(sch)) if sch.get(other).same_as(stmt))


def is_symbolic(func: tirx.PrimFunc) -> bool:
    """Return whether an extent of a parameter is not known at compile time."""
    buffers = [param for param in func.params if tirx.is_buffer_var(param)]
    return any(extent(size) is None for buffer in buffers for size in buffer.shape)


def axes_of(sch: Schedule, block: SBlockRV) -> list[Axis]:
    """Return the axes of a block, without its accesses, even if its loops have been changed."""
    axes = sch.get(block).iter_vars
    return [Axis(a.var, extent(a.dom.extent), int(a.iter_type), a.dom.extent) for a in axes]
