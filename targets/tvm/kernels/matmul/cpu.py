"""The CPU loop nest of `matmul`: tiles of rows by columns that stay in registers over K, or over a block of K.

    for each job (batch, panel of columns, block of rows)        in parallel
        for each block of K
            for each tile of rows: sum in registers
        finish (bias, activation, ...) and store

Rows that do not fill a tile are spread over tiles one lower, so no tile is nearly empty; where their number is not
known, tiles of 4, 2 and 1 rows follow. While tiles of rows pass over a panel, the next one is fetched from memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tvm import tirx

from graphopt.targets.tvm.kernels.common import blocks as facts
from graphopt.targets.tvm.kernels.common.dot import NAMES, Dot
from graphopt.targets.tvm.kernels.common.nest import even_split
from graphopt.targets.tvm.kernels.common.statements import (
    Expr,
    Multiply,
    adding,
    block,
    buffer,
    ceil_div,
    int64,
    loads,
    loop,
    over,
    parallel,
    pieces,
    product_of,
    register_tile,
    unflatten,
    with_buffer,
)
from graphopt.targets.tvm.kernels.matmul.fetch import PanelFetch, fetch_residuals
from graphopt.targets.tvm.kernels.matmul.product import EXPENSIVE, Product, read_product
from graphopt.targets.tvm.machine import Machine

THREADS_WORK = 1 << 19
"""The work from which several threads pay: multiply-adds, and four for each element of the right operand."""
JOBS = 16
"""The desired number of jobs per matrix, so that threads share them evenly."""


def schedule(func: tirx.PrimFunc, machine: Machine) -> tirx.PrimFunc | None:
    """Return the loop nest of a function whose anchor is a matmul of this family; None for any other function."""
    product = read_product(func)
    if product is None or any(facts.extent(size) == 0 for size in product.finish.extents):
        return None
    nest = _Nest(product, machine)
    return tirx.PrimFunc(func.params, nest.body(), func.ret_type, func.attrs)


@dataclass(frozen=True)
class _Columns:
    """The columns of a panel: the first one, the number (None: the rest of N), and the computed vectors."""

    start: Expr
    count: int | None
    pieces: tuple[tuple[int, int], ...]
    """The offset and lanes of each vector."""


class _Nest:
    def __init__(self, product: Product, machine: Machine) -> None:
        self.product = product
        self.machine = machine
        self.rows, self.panel_vectors, self.lanes, k_block, self.m_block, packed, way = product.tile
        self.dot = Dot(NAMES[way], self.lanes)
        self.k_block = k_block // self.dot.width
        self.is_packed = bool(packed) or product.pack is not None
        self.is_constant = bool(packed)
        *self.batch, self.m, self.n, self.k = product.term.extents
        self.width = self.lanes * self.panel_vectors
        self.static_m, self.static_n, self.static_k = (facts.extent(size) for size in (self.m, self.n, self.k))
        self.rest = self.static_k % self.dot.width if self.static_k else 0
        self.steps = self.k // self.dot.width if self.dot.width > 1 else self.k
        """Whole steps of K; the products of a last, partial one are added after these."""
        self.dtype = str(product.term.target.dtype)
        self.staged = bool(self.k_block) or product.cost >= EXPENSIVE
        self.block_rows = self._block_rows()

    def _block_rows(self) -> int:
        """Return the rows of a job: blocks of similar height, lower than planned if there would be too few jobs."""
        most = self.m_block
        if self.static_m is None:
            return min(most, 8 * self.rows)
        jobs = facts.product(facts.extent(size) for size in self.batch)
        panels = JOBS if self.static_n is None else -(-self.static_n // self.width)
        wanted = -(-JOBS // max(1, (jobs or 1) * panels))
        tiles = -(-self.static_m // self.rows)
        blocks = min(tiles, max(wanted, -(-self.static_m // most)))
        return -(-tiles // blocks) * self.rows

    # --- jobs

    def body(self) -> tirx.Stmt:
        panels, chunks = ceil_div(self.n, self.width), ceil_div(self.m, self.block_rows)
        sizes = [*self.batch, panels, chunks]
        count = product_of(sizes)

        def job(index: Expr) -> tirx.Stmt:
            *batch, panel, chunk = unflatten(index, sizes)
            return self._job(batch, panel, chunk)

        products = parallel(count, job, "job", self._pays(count))
        pack = self._pack()
        if pack is None:
            return products
        assert self.product.pack is not None
        return with_buffer(self.product.pack.target, pack, products)

    def _pays(self, count: Expr) -> bool:
        known = [facts.extent(size) for size in (count, self.m, self.n, self.k, *self.batch)]
        if any(size is None for size in known):
            return True
        jobs, m, n, k, *batch = (size or 0 for size in known)
        outer = facts.product(batch) or 1
        return jobs > 1 and outer * n * k * (m + 4) >= THREADS_WORK

    def _pack(self) -> tirx.Stmt | None:
        """Emit the packing of the right operand into panels, in parallel over panels."""
        stage = self.product.pack
        if stage is None:
            return None
        *outer, depth, width = stage.extents
        count = product_of(outer)

        def panel(index: Expr) -> tirx.Stmt:
            place = unflatten(index, outer)

            def row(k: Expr) -> tirx.Stmt:
                def element(lane: Expr) -> tirx.Stmt:
                    indices, value = stage.at([*place, k, lane])
                    return tirx.BufferStore(stage.target, value, indices)

                return loop(width, element, "column")

            return loop(depth, row, "k")

        return parallel(count, panel, "panel", self._pays(count))

    def _job(self, batch: list[Expr], panel: Expr, chunk: Expr) -> tirx.Stmt:
        """Emit one panel of columns for one block of rows: full ones, and those at the ends of the matrix."""
        start = panel * self.width
        if self.static_n is None:
            left, whole = self.n - start, self._columns(start, self.width)
            rest = _Columns(start, None, whole.pieces)
            return tirx.IfThenElse(
                left >= self.width, self._rows(batch, panel, whole, chunk), self._rows(batch, panel, rest, chunk)
            )
        full, left = divmod(self.static_n, self.width)
        parts = [self._rows(batch, panel, self._columns(start, size), chunk) for size in (self.width, left) if size]
        if not full:
            return parts[-1]
        return parts[0] if not left else tirx.IfThenElse(panel < full, *parts)

    def _columns(self, start: Expr, count: int) -> _Columns:
        if self.is_packed:  # zeros fill the last vector
            return _Columns(start, count, tuple(pieces(-(-count // self.lanes) * self.lanes, self.lanes)))
        return _Columns(start, count, tuple(pieces(count, self.lanes)))

    # --- rows of a job

    def _rows(self, batch: list[Expr], panel: Expr, columns: _Columns, chunk: Expr) -> tirx.Stmt:
        first = chunk * self.block_rows
        if self.static_m is None:
            return self._unknown_rows(batch, panel, columns, first)
        full, rest = divmod(self.static_m, self.block_rows)
        parts = [self._block(batch, panel, columns, first, size) for size in (self.block_rows, rest) if size]
        if not full:
            return parts[-1]
        return parts[0] if not rest else tirx.IfThenElse(chunk < full, *parts)

    def _unknown_rows(self, batch: list[Expr], panel: Expr, columns: _Columns, first: Expr) -> tirx.Stmt:
        count = tirx.min(self.m - first, int64(self.block_rows))
        tiles = count // self.rows
        parts = [loop(tiles, lambda t: self._block(batch, panel, columns, first + t * self.rows, self.rows), "tile")]
        done = first + tiles * self.rows
        left = count % self.rows
        height = 1 << (self.rows - 1).bit_length() - 1 if self.rows > 1 else 0
        while height:
            place = done + left // (2 * height) * (2 * height)
            some = self._block(batch, panel, columns, place, height)
            parts.append(tirx.IfThenElse(tirx.EQ(left // height % 2, int64(1)), some, None))
            height //= 2
        return block(*parts)

    def _block(self, batch: list[Expr], panel: Expr, columns: _Columns, first: Expr, count: int) -> tirx.Stmt:
        """Emit `count` rows from `first`, over all of K."""
        spans = even_split(count, self.rows)
        staged = self.staged or columns.count is None or columns.count % self.lanes != 0
        if not staged:
            return self._tiles(batch, panel, columns, first, spans, None, (int64(0), self.steps))
        stage = buffer([count, self.width], self.dtype, "sums", "global")
        parts: list[tirx.Stmt] = []
        if self.k_block and self.static_k is not None:
            parts.append(self._cleared(stage, count, columns))
            blocks, rest = divmod(self.static_k // self.dot.width, self.k_block)
            parts.append(
                loop(
                    blocks,
                    lambda b: self._tiles(
                        batch, panel, columns, first, spans, stage, (b * self.k_block, int64(self.k_block))
                    ),
                    "k_block",
                )
            )
            if rest or self.rest:
                span = (int64(blocks * self.k_block), int64(rest))
                parts.append(self._tiles(batch, panel, columns, first, spans, stage, span))
        else:
            parts.append(self._tiles(batch, panel, columns, first, spans, stage, (int64(0), self.steps)))
        return with_buffer(stage, *parts, self._finish(batch, columns, first, count, stage))

    def _cleared(self, stage: tirx.Buffer, count: int, columns: _Columns) -> tirx.Stmt:
        zero = tirx.const(0, self.dtype)

        def row(r: Expr) -> tirx.Stmt:
            return block(*over(columns.pieces, lambda c: tirx.BufferStore(stage, zero, [r, c])))

        return loop(count, row, "row")

    def _finish(self, batch: list[Expr], columns: _Columns, first: Expr, count: int, stage: tirx.Buffer) -> tirx.Stmt:
        """Emit the epilogue of a block of rows: read the sums back, and store the results."""

        def element(r: Expr, column: Expr) -> tirx.Stmt:
            return self.product.finished([*batch, first + r, columns.start + column], stage[r, column])

        def row(r: Expr) -> tirx.Stmt:
            if columns.count is None:
                return loop(self.n - columns.start, lambda c: element(r, c), "column")
            whole, rest = divmod(columns.count, self.lanes)
            many = loop(whole, lambda v: block(*over([(0, self.lanes)], lambda c: element(r, v * self.lanes + c))), "v")
            last = over(pieces(rest, self.lanes), lambda c: element(r, whole * self.lanes + c))
            return block(many if whole else None, *last)

        return loop(count, row, "row")

    # --- tiles

    def _tiles(
        self,
        batch: list[Expr],
        panel: Expr,
        columns: _Columns,
        first: Expr,
        spans: list[tuple[int, int, int]],
        stage: tirx.Buffer | None,
        depth: tuple[Expr, Expr],
    ) -> tirx.Stmt:
        """Emit tiles over rows; `spans`: first row, height and number of tiles of each run of equal tiles."""
        fetch = None
        if self.is_constant and columns.count == self.width:
            size = self.width * self.dot.width
            fetch = PanelFetch.plan(self.product, size, depth, sum(number for _, _, number in spans))
        fetching = fetch.tiles if fetch else 0
        parts, done = [], 0
        for offset, height, number in _split_spans(spans, fetching):
            fetches = done < fetching

            def tile(
                t: Expr, offset: int = offset, height: int = height, done: int = done, fetches: bool = fetches
            ) -> tirx.Stmt:
                row = offset + t * height

                multiply = self._multiply(batch, panel, first + row, columns.start)

                def store(r: int, column: Expr, total: Expr) -> tirx.Stmt:
                    if stage is None:
                        return self.product.finished([*batch, first + row + r, columns.start + column], total)
                    total = stage[row + r, column] + total if self.k_block else total
                    return tirx.BufferStore(stage, total, [row + r, column])

                def sum_up(add: Callable[[Expr], tirx.Stmt]) -> tirx.Stmt:
                    if fetch and fetches:
                        steps = fetch.steps(panel, t + done, add)
                    else:
                        steps = loop(depth[1], lambda k: add(depth[0] + k), "k")
                    ends = self.rest and facts.extent(depth[0] + depth[1]) == facts.extent(self.steps)
                    return block(steps, add(self.steps)) if ends else steps

                sums = register_tile(height, columns.pieces, self.dtype, sum_up, multiply, store)
                if stage is not None:
                    return sums
                place = (columns.start, columns.count or self.width)
                return block(*fetch_residuals(self.product, batch, first + row, height, place), sums)

            parts.append(loop(number, tile, "tile"))
            done += number
        return block(*parts)

    def _multiply(self, batch: list[Expr], panel: Expr, row: Expr, start: Expr) -> Multiply:
        """Return what adds the products of a step to a vector of sums, for rows from `row` and columns from `start`."""
        term, step = self.product.term, self.dot.width

        def one(r: int, column: Expr, k: Expr) -> Expr:
            return term.at([*batch, row + r, start + column, k])[1]

        if self.dtype != "int32" and step == 1:
            return adding(one)

        def several(sums: tirx.Buffer, at: Expr, r: int, span: tuple[int, int], k: Expr) -> tirx.Stmt:
            left, right = loads(one(r, int64(span[0]), k * step))
            count = self.rest if k.same_as(self.steps) else None
            words = str(right.source.dtype) == "int32"
            first = [*list(right.indices)[:-3], panel, k, int64(span[0] * (1 if words else step))]
            weight = [right.source, *first]
            total = self.dot.add(sums, at, [left.source, *left.indices], weight, count)
            return tirx.BufferStore(sums, total, [tirx.Ramp(at, int64(1), span[1]) if span[1] > 1 else at])

        return several


def _split_spans(spans: list[tuple[int, int, int]], at: int) -> Iterator[tuple[int, int, int]]:
    """Yield the runs of tiles, with one divided so that the first `at` tiles are whole runs."""
    done = 0
    for offset, height, number in spans:
        head = min(max(0, at - done), number)
        if head:
            yield offset, height, head
        if number - head:
            yield offset + head * height, height, number - head
        done += number
