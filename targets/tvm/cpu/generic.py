"""The generic CPU schedule of functions without a kernel family: injective chains, reductions, mixtures of them.

Injective producers are inlined; every remaining block gets a vector loop along the contiguous axis, parallel outer
loops, and a loop over full vectors whose tail `LoopPartition` peels off, so that extents need neither be static nor
multiples of the vector width. Reductions are vectorized along the spatial axis if that is contiguous, and otherwise
keep one vector of partial results (`rfactor`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from operator import methodcaller

import tvm
from tvm import tirx
from tvm.s_tir import Schedule, ScheduleError
from tvm.s_tir.schedule import LoopRV, SBlockRV

from graphopt.targets.tvm.cpu import columns as columns_cpu
from graphopt.targets.tvm.cpu import transpose as transpose_cpu
from graphopt.targets.tvm.kernels.common import blocks as facts
from graphopt.targets.tvm.kernels.common import steps
from graphopt.targets.tvm.kernels.common.blocks import Axis, BlockInfo
from graphopt.targets.tvm.machine import Machine
from graphopt.targets.tvm.tir_passes.border import BORDER
from graphopt.targets.tvm.tir_passes.peel import PEEL
from graphopt.targets.tvm.tuning.messages import last_line

_LOG = logging.getLogger(__name__)

EXPENSIVE = 10
"""The number of operations above which a value with several reads is stored instead of recomputed."""
CHUNK_VECTORS = 16
"""The number of vectors per parallel iteration if the extent is not known at compile time."""


FAILURES = (AssertionError, LookupError, RuntimeError, TypeError, ValueError)
"""What schedules raise for functions that they do not expect: TVM's rejections, and what is wrong in a schedule."""


def attempt(sch: Schedule, change: Callable[[Schedule], None]) -> Schedule | None:
    """Return the schedule after `change`, or None if that change fails (`sch` is then still usable)."""
    trial = sch.copy()
    try:
        change(trial)
    except FAILURES as error:
        note_failure("a step", error)
        return None
    return trial


def note_failure(what: str, error: Exception) -> None:
    """Log why a more general schedule is tried: as a warning unless TVM rejected a step, which is to be expected."""
    level = logging.DEBUG if isinstance(error, ScheduleError) else logging.WARNING
    reason = f"{type(error).__name__}: {last_line(str(error))}"
    _LOG.log(level, "%s failed, trying a more general schedule: %s", what, reason)


def schedule(func: tirx.PrimFunc, machine: Machine) -> tirx.PrimFunc:
    """Schedule `func` (any PrimFunc made of blocks); a function without plain blocks is returned unchanged."""
    sch = inline_injective(Schedule(tvm.IRModule({"main": func})))
    infos = [facts.describe(sch, block) for block in facts.child_blocks(sch)]
    for info in infos:
        if info is not None and info.is_plain:
            sch = schedule_block(sch, info, machine)
    return sch.mod["main"]


def inline_injective(sch: Schedule) -> Schedule:
    """Inline every injective block into its consumers, unless that would repeat costly work."""
    changed = True
    while changed:
        changed = False
        for block in facts.child_blocks(sch):
            if not _should_inline(sch, block):
                continue
            trial = attempt(sch, methodcaller("compute_inline", block))
            if trial is None and _is_last_injective(sch, block):
                trial = attempt(sch, methodcaller("reverse_compute_inline", block))
            if trial is not None:
                sch, changed = trial, True
                break
    return sch


def _should_inline(sch: Schedule, block: SBlockRV) -> bool:
    info = facts.describe(sch, block)
    if info is None or info.is_reduction or not info.is_plain:
        return False
    consumers = sch.get_consumers(block)
    if not consumers:
        return False
    read_by = [facts.describe(sch, consumer) for consumer in consumers]
    if any(c is None for c in read_by):
        return False
    if any(axis.branches for axis in info.axes) and any(c.is_reduction for c in read_by if c is not None):
        return False  # a padding stage: its branches would end up in the reduction's inner loop
    repeated = len(consumers) > 1 or any(_rereads(info, c) for c in read_by if c is not None)
    # A chain of blocks that each read their input twice would double in size with each block.
    repeated = repeated or _loads(sch, block, consumers[0]) > 1
    return not repeated or info.cost < EXPENSIVE


def _loads(sch: Schedule, producer: SBlockRV, consumer: SBlockRV) -> int:
    """Return how often the consumer's body loads what the producer writes."""
    written = sch.get(producer).writes[0].source
    return sum(load.source.same_as(written) for load in facts.loads_of(sch, consumer))


def _rereads(producer: BlockInfo, consumer: BlockInfo) -> bool:
    """Return whether the consumer's loops visit more points than the producer has elements."""
    made = facts.product(axis.size for axis in producer.axes)
    visits = facts.product(axis.size for axis in consumer.axes)
    if made is None or visits is None:
        return len(consumer.axes) > len(producer.axes)
    return visits > made


def _is_last_injective(sch: Schedule, block: SBlockRV) -> bool:
    return not sch.get_consumers(block)


def schedule_block(sch: Schedule, info: BlockInfo, machine: Machine) -> Schedule:
    """Schedule one root-level block in the most specific way that TVM accepts."""
    if any(axis.size == 0 for axis in info.axes):
        return sch
    ways: list[Callable[[Schedule], None]] = []
    if info.is_reduction:
        if is_row_reduction(info, machine):
            ways.append(lambda s: reduce_row(s, info, machine))
        elif columns_cpu.applies(sch, info, machine):
            ways.append(lambda s: columns_cpu.reduce_columns(s, info, machine, worth_threads(info)))
        ways.append(lambda s: reduce_column(s, info, machine))
    else:
        transposition = transpose_cpu.find(sch, info, machine)
        if transposition is not None:
            ways.append(lambda s: transpose_cpu.transpose(s, info, transposition, worth_threads(info)))
        ways.append(lambda s: map_block(s, info, machine))
    ways.append(lambda s: parallel_only(s, info))
    for way in ways:
        trial = attempt(sch, way)
        if trial is not None:
            return trial
    return sch


def parallel_only(sch: Schedule, info: BlockInfo) -> None:
    """Parallelize the outermost spatial loop, as the last resort."""
    loops = sch.get_loops(info.rv)
    if info.axes and info.axes[0].kind == facts.SPATIAL and worth_threads(info):
        sch.parallel(loops[0])


def worth_threads(info: BlockInfo) -> bool:
    work = info.work()
    return work is None or work >= facts.SERIAL_WORK


def map_block(sch: Schedule, info: BlockInfo, machine: Machine) -> None:
    """Schedule an injective block: [outer -> parallel] [vectors] [vector]."""
    loops = sch.get_loops(info.rv)
    if not loops:
        return
    start = facts.trailing_group(info.axes)
    size = facts.product(axis.size for axis in info.axes[start:])
    inner = steps.fuse_all(sch, loops[start:])
    vectorize_and_parallelize(
        sch,
        info,
        loops[:start],
        info.axes[:start],
        inner,
        size,
        machine,
        branches=any(axis.branches for axis in info.axes[start:]),
        lanes=facts.whole_vectors(info.axes[start:], machine.lanes(info.dtype), machine.lanes("float32")),
    )


def vectorize_and_parallelize(
    sch: Schedule,
    info: BlockInfo,
    outer: list[LoopRV],
    outer_axes: list[Axis],
    inner: LoopRV,
    size: int | None,
    machine: Machine,
    between: list[LoopRV] | None = None,
    branches: bool = False,
    lanes: int | None = None,
) -> None:
    """Split `inner` into full vectors, make the loops before it parallel, and put `between` before the vector.

    `between` (reduction loops) ends up inside the loop over vectors, which have as many `lanes` as fit unless given.
    """
    lanes = lanes or machine.lanes(info.dtype)
    threads = worth_threads(info)
    between = between or []
    sizes = [axis.size for axis in outer_axes]
    pieces = facts.product(size or 1 for size in sizes) or 1
    loops = list(outer)
    if branches:
        # TVM would turn a vector loop with branches into a scalar one; the plain loop is split at its bounds
        # (`border`), or becomes masked vectors in LLVM. If it is the only loop, it is split by running it in parallel.
        sch.annotate(inner, BORDER, 1)
        if between:
            sch.reorder(*between, inner)
        if not outer and not between:
            loops, sizes = [inner], [size]
    elif size is not None and size <= lanes:
        if between:
            sch.reorder(*between, inner)
        if size != 1:
            sch.vectorize(inner)
    else:
        chunk = _chunk(size, lanes, pieces) if threads and None not in sizes else None
        if chunk is not None:
            piece, inner = sch.split(inner, [None, chunk * lanes])
            loops, sizes = [*outer, piece], [*sizes, facts.extent(sch.get(piece).extent)]
        vectors, vector = sch.split(inner, [None, lanes])
        sch.reorder(vectors, *between, vector)
        sch.vectorize(vector)
        if size is None or size % lanes:
            sch.annotate(vectors, PEEL, 1)
    if threads:
        steps.parallelize(sch, loops, sizes)


def _chunk(size: int | None, lanes: int, pieces: int) -> int | None:
    """Return the vectors per parallel iteration; None if the outer loops make enough iterations."""
    if size is None:
        return CHUNK_VECTORS if pieces < steps.FEW_PIECES else None
    if pieces >= steps.PARALLEL_PIECES:
        return None
    vectors, wanted = -(-size // lanes), max(1, steps.PARALLEL_PIECES // pieces)
    return max(1, -(-vectors // wanted))


def is_row_reduction(info: BlockInfo, machine: Machine) -> bool:
    """Return whether the reduced axis is contiguous and long, and the last spatial axis is not contiguous."""
    reduced = [axis for axis in info.axes if axis.kind == facts.REDUCE and not facts.is_unit(axis)]
    spatial = [axis for axis in info.axes if axis.kind == facts.SPATIAL and not facts.is_unit(axis)]
    if not reduced or not all(c in (0, 1) for c in reduced[-1].loads) or reduced[-1].branches:
        return False
    long = reduced[-1].size is None or reduced[-1].size >= machine.lanes(info.dtype)
    return long and not (spatial and spatial[-1].contiguous and spatial[-1].store == 1)


def split_kinds(sch: Schedule, info: BlockInfo) -> tuple[list[LoopRV], list[Axis], list[LoopRV], list[Axis]]:
    """Reorder a block's loops to spatial then reduced; return both lists with their axes."""
    loops = sch.get_loops(info.rv)
    pairs = list(zip(loops, info.axes, strict=True))
    spatial = [p for p in pairs if p[1].kind == facts.SPATIAL]
    reduced = [p for p in pairs if p[1].kind == facts.REDUCE]
    if not spatial:
        spatial = [(sch.add_unit_loop(loops[0]), Axis(info.axes[0].var, 1, facts.SPATIAL))]
    sch.reorder(*[p[0] for p in spatial], *[p[0] for p in reduced])
    return [p[0] for p in spatial], [p[1] for p in spatial], [p[0] for p in reduced], [p[1] for p in reduced]


def reduce_column(sch: Schedule, info: BlockInfo, machine: Machine) -> None:
    """Schedule a reduction vectorized along the last spatial axis: one accumulator vector in a register."""
    spatial, axes, reduced, _ = split_kinds(sch, info)
    last = max((i for i, axis in enumerate(axes) if not facts.is_unit(axis)), default=len(axes) - 1)
    order = [*spatial[:last], *spatial[last + 1 :]]
    order_axes = [*axes[:last], *axes[last + 1 :]]
    if last + 1 < len(spatial):
        sch.reorder(*order, spatial[last], *reduced)
    vectorize_and_parallelize(sch, info, order, order_axes, spatial[last], axes[last].size, machine, between=reduced)
    init = sch.decompose_reduction(info.rv, reduced[0])
    vectorize_last(sch, init)


def vectorize_last(sch: Schedule, block: SBlockRV) -> None:
    """Vectorize the initialization like its update; TVM already copies the loop kind where possible."""
    loops = sch.get_loops(block)
    if not loops:
        return
    loop = loops[-1]
    if sch.get(loop).kind == tirx.ForKind.SERIAL and facts.extent(sch.get(loop).extent) not in (None, 1):
        sch.vectorize(loop)


def reduce_row(sch: Schedule, info: BlockInfo, machine: Machine) -> None:
    """Schedule a reduction along the contiguous axis: one vector of partial results per element, then their sum."""
    partial, final, spatial, axes = factor_row(sch, info, machine)
    at = spatial[-1]
    reduced = sch.get_loops(partial)[len(spatial)]
    sch.reverse_compute_at(final, at)
    if worth_threads(info):
        steps.parallelize(sch, spatial, [axis.size for axis in axes])
    vectorize_last(sch, sch.decompose_reduction(partial, reduced))
    sch.decompose_reduction(final, sch.get_loops(final)[-1])


def factor_row(sch: Schedule, info: BlockInfo, machine: Machine) -> tuple[SBlockRV, SBlockRV, list[LoopRV], list[Axis]]:
    """Split the last reduced axis by the vector width and `rfactor` it.

    Return the block of partial results (its vector loop innermost), the final block, and the spatial loops of the first
    with their axes.
    """
    lanes = machine.lanes(info.dtype)
    spatial, axes, reduced, reduced_axes = split_kinds(sch, info)
    group = facts.trailing_group(reduced_axes)
    inner = steps.fuse_all(sch, reduced[group:])
    size = facts.product(axis.size for axis in reduced_axes[group:])
    _, vector = sch.split(inner, [None, lanes])
    final = info.rv
    partial = sch.rfactor(vector, len(axes))
    loops = sch.get_loops(partial)
    sch.vectorize(loops[-1])
    if size is None or size % lanes:
        sch.annotate(loops[-2], PEEL, 1)
    return partial, final, list(loops[: len(spatial)]), axes
