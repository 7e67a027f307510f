"""The loop nest of `attention`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from tvm import tirx

from graphopt.targets.tvm.kernels.attention.compute import AttentionSpec
from graphopt.targets.tvm.kernels.attention.plan import AttentionPlan
from graphopt.targets.tvm.kernels.common import blocks as facts
from graphopt.targets.tvm.kernels.common.math import exp_nonpositive
from graphopt.targets.tvm.kernels.common.nest import even_split
from graphopt.targets.tvm.kernels.common.statements import (
    Expr,
    adding,
    block,
    buffer,
    ceil_div,
    int64,
    loop,
    over,
    parallel,
    pieces,
    product_of,
    register_tile,
    unflatten,
    with_buffer,
)

KIND = "float32"
THREADS_WORK = 1 << 19
"""The number of multiply-adds from which several threads pay."""


def attention(spec: AttentionSpec, plan: AttentionPlan) -> tirx.Stmt:
    """The loop nest: every block of queries of every head is a piece of parallel work."""
    sizes = [spec.batch, int64(spec.heads), ceil_div(spec.queries, plan.queries)]
    work = facts.product(facts.extent(size) for size in (spec.batch, spec.queries, spec.keys))
    pays = work is None or work * spec.heads * (spec.size + spec.value_size) >= THREADS_WORK

    def job(index: Expr) -> tirx.Stmt:
        batch, head, place = unflatten(index, sizes)
        return _Block(spec, plan, batch, head, place * plan.queries).body()

    return parallel(product_of(sizes), job, "job", pays)


@dataclass
class _Block:
    """One block of queries, from `first` on, with its buffers.

    `top`: the largest score so far of each query; `base`: what is subtracted before exponentials are taken; `total`:
    their sum; `mixed`: values weighted by them, where keys come in several blocks.
    """

    spec: AttentionSpec
    plan: AttentionPlan
    batch: Expr
    head: Expr
    first: Expr
    several: bool = field(init=False)
    packed: tirx.Buffer = field(init=False)
    scores: tirx.Buffer = field(init=False)
    top: tirx.Buffer = field(init=False)
    base: tirx.Buffer = field(init=False)
    total: tirx.Buffer = field(init=False)
    mixed: tirx.Buffer = field(init=False)

    def __post_init__(self) -> None:
        spec, width = self.spec, self.plan.queries
        keys = facts.extent(spec.keys)
        self.several = keys is None or keys > self.plan.keys
        self.packed = buffer([spec.size, width], KIND, "queries", "global")
        self.scores = buffer([self.plan.keys if self.several else keys or 1, width], KIND, "scores", "global")
        self.top, self.base, self.total = (buffer([width], KIND, name, "global") for name in ("top", "base", "total"))
        self.mixed = buffer([width, spec.value_size], KIND, "mixed", "global")
        self.lanes = list(pieces(width, self.plan.lanes))
        self.columns = list(pieces(spec.value_size, self.plan.lanes))
        self.shared = self.head // spec.repeat

    def body(self) -> tirx.Stmt:
        result = block(self._pack(), self._start(), *self._key_blocks(), self._finish() if self.several else None)
        buffers = [self.packed, self.scores, self.top, self.base, self.total, *([self.mixed] if self.several else [])]
        for one in buffers:
            result = with_buffer(one, result)
        return result

    def _key_blocks(self) -> list[tirx.Stmt]:
        """Emit full blocks of keys, and the remainder."""
        keys, size = facts.extent(self.spec.keys), self.plan.keys
        if keys is not None:
            full, rest = divmod(keys, size)
            parts = [loop(full, lambda b: self._key_block(b * size, size), "key_block")] if full else []
            return [*parts, self._key_block(int64(full * size), rest)] if rest else parts
        count, left = self.spec.keys // size, self.spec.keys % size
        return [
            loop(count, lambda b: self._key_block(b * size, size), "key_block"),
            tirx.IfThenElse(left > 0, self._key_block(count * size, left), None),
        ]

    def _key_block(self, start: Expr, count: int | Expr) -> tirx.Stmt:
        return block(
            self._score(start, count), self._maximum(count), self._exponential(count), *self._mix(start, count)
        )

    def _pack(self) -> tirx.Stmt:
        """Emit the packing of the block's queries, scaled, one per lane; lanes beyond the last repeat it."""
        spec = self.spec

        def element(d: Expr, q: Expr) -> tirx.Stmt:
            value = spec.query(self.batch, self.head, self._query(q), d)
            return tirx.BufferStore(self.packed, value.astype(KIND) * tirx.const(spec.scale, KIND), [d, q])

        return loop(spec.size, lambda d: block(*over(self.lanes, lambda q: element(d, q))), "element")

    def _query(self, q: Expr) -> Expr:
        count = facts.extent(self.spec.queries)
        place = self.first + q
        return place if count is not None and count % self.plan.queries == 0 else tirx.min(place, self.spec.queries - 1)

    def _start(self) -> tirx.Stmt:
        low, zero = tirx.const(-math.inf, KIND), tirx.const(0, KIND)
        clear = over(self.lanes, lambda q: tirx.BufferStore(self.total, zero, [q]))
        lowest = over(self.lanes, lambda q: tirx.BufferStore(self.top, low, [q]))
        if not self.several:
            return block(*clear, *lowest)

        def row(q: Expr) -> tirx.Stmt:
            return block(*over(self.columns, lambda d: tirx.BufferStore(self.mixed, zero, [q, d])))

        return block(*clear, *lowest, loop(self.plan.queries, row, "row"))

    def _score(self, start: Expr, count: int | Expr) -> tirx.Stmt:
        """Emit the scores of a block of keys, one row per key."""
        spec = self.spec

        def tile(row: Expr, height: int) -> tirx.Stmt:
            def term(r: int, q: Expr, d: Expr) -> Expr:
                return spec.key(self.batch, self.shared, start + row + r, d).astype(KIND) * self.packed[d, q]

            def store(r: int, q: Expr, total: Expr) -> tirx.Stmt:
                if spec.bias is not None:
                    total = total + spec.bias(self.batch, self.head, self._query(q), start + row + r)
                return tirx.BufferStore(self.scores, total, [row + r, q])

            return register_tile(
                height, self.lanes, KIND, lambda add: loop(spec.size, add, "element"), adding(term), store
            )

        return _tiles(count, self.plan.rows, tile)

    def _maximum(self, count: int | Expr) -> tirx.Stmt:
        """Emit the running maximum of the scores, and the correction of the sums to it."""
        best = buffer([self.plan.queries], KIND, "best")

        def larger(k: Expr, q: Expr) -> tirx.Stmt:
            # NaN may be lost here: its exponential is NaN too.
            other = tirx.Select(best[q] > self.scores[k, q], best[q], self.scores[k, q])
            return tirx.BufferStore(best, other, [q])

        def base(q: Expr) -> tirx.Stmt:
            # A fully masked row has no maximum: its exponentials are computed relative to 0, and are all 0.
            seen = best[q] > tirx.min_value(KIND)
            value = tirx.Select(tirx.Or(seen, tirx.isnan(best[q])), best[q], tirx.const(0, KIND))
            return tirx.BufferStore(self.base, value, [q])

        parts = [
            *over(self.lanes, lambda q: tirx.BufferStore(best, self.top[q], [q])),
            loop(count, lambda k: block(*over(self.lanes, lambda q: larger(k, q))), "key"),
            *over(self.lanes, base),
            *(self._correct() if self.several else []),
            *over(self.lanes, lambda q: tirx.BufferStore(self.top, best[q], [q])),
        ]
        return with_buffer(best, *parts)

    def _correct(self) -> list[tirx.Stmt]:
        """Multiply the sums so far by e ** (old maximum - new maximum), which is kept where the old one is."""
        one = self.top

        def factor(q: Expr) -> tirx.Stmt:
            return tirx.BufferStore(one, exp_nonpositive(one[q] - self.base[q]), [q])

        def row(q: Expr) -> tirx.Stmt:
            return block(*over(self.columns, lambda d: tirx.BufferStore(self.mixed, self.mixed[q, d] * one[q], [q, d])))

        return [
            *over(self.lanes, factor),
            *over(self.lanes, lambda q: tirx.BufferStore(self.total, self.total[q] * one[q], [q])),
            loop(self.plan.queries, row, "row"),
        ]

    def _exponential(self, count: int | Expr) -> tirx.Stmt:
        """Emit the exponentials of the scores, and their sum."""
        total = buffer([self.plan.queries], KIND, "sum")

        def element(k: Expr, q: Expr) -> tirx.Stmt:
            return tirx.BufferStore(self.scores, exp_nonpositive(self.scores[k, q] - self.base[q]), [k, q])

        def add(k: Expr, q: Expr) -> tirx.Stmt:
            return tirx.BufferStore(total, total[q] + self.scores[k, q], [q])

        def key(k: Expr) -> tirx.Stmt:
            return block(*over(self.lanes, lambda q: element(k, q)), *over(self.lanes, lambda q: add(k, q)))

        return with_buffer(
            total,
            *over(self.lanes, lambda q: tirx.BufferStore(total, self.total[q], [q])),
            loop(count, key, "key"),
            *over(self.lanes, lambda q: tirx.BufferStore(self.total, total[q], [q])),
        )

    def _mix(self, start: Expr, count: int | Expr) -> list[tirx.Stmt]:
        """Emit the values weighted by the exponentials of a block: stored if it is the only one, else accumulated."""
        spec = self.spec

        def tile(row: Expr, height: int, cover: list[tuple[int, int]]) -> tirx.Stmt:
            def term(r: int, d: Expr, k: Expr) -> Expr:
                return self.scores[k, row + r] * spec.value(self.batch, self.shared, start + k, d).astype(KIND)

            def store(r: int, d: Expr, total: Expr) -> tirx.Stmt:
                if not self.several:
                    return self._result(row + r, d, total)
                return tirx.BufferStore(self.mixed, self.mixed[row + r, d] + total, [row + r, d])

            return register_tile(height, cover, KIND, lambda add: loop(count, add, "key"), adding(term), store)

        at_once = self.plan.vectors
        covers = [self.columns[i : i + at_once] for i in range(0, len(self.columns), at_once)]

        def rows(cover: list[tuple[int, int]]) -> tirx.Stmt:
            return _tiles(self.plan.queries, self.plan.rows, lambda row, height: tile(row, height, cover))

        return [rows(cover) for cover in covers]

    def _finish(self) -> tirx.Stmt:
        def row(q: Expr) -> tirx.Stmt:
            return block(*over(self.columns, lambda d: self._result(q, d, self.mixed[q, d])))

        return loop(self.plan.queries, row, "row")

    def _result(self, row: Expr, d: Expr, mixed: Expr) -> tirx.Stmt:
        """Emit the store of a result element, if its query exists: the last block may be padded with others."""
        total = self.total[row]
        divisor = tirx.Select(tirx.EQ(total, tirx.const(0, KIND)), tirx.const(1, KIND), total)
        store = self.spec.store(self.batch, self.head, self.first + row, d, mixed / divisor)
        count = facts.extent(self.spec.queries)
        if count is not None and count % self.plan.queries == 0:
            return store
        return tirx.IfThenElse(self.first + row < self.spec.queries, store, None)


def _tiles(count: int | Expr, height: int, tile: Callable[[Expr, int], tirx.Stmt]) -> tirx.Stmt:
    """Emit tiles of at most `height` rows over `count`; single rows at the end if the count is not known."""
    known = facts.extent(count)
    if known is None:
        full = count // height
        return block(
            loop(full, lambda t: tile(t * height, height), "tile"),
            loop(count % height, lambda t: tile(full * height + t, 1), "tile"),
        )

    def run(first: int, size: int, number: int) -> tirx.Stmt:
        return loop(number, lambda t: tile(first + t * size, size), "tile")

    return block(*(run(*one) for one in even_split(known, height)))
