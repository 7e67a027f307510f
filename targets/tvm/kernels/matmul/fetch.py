"""Prefetching in a matmul: the next panel of a packed operand, and the residual that is added to a tile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import tvm_ffi
from tvm import tirx

from graphopt.targets.tvm.kernels.common import blocks as facts
from graphopt.targets.tvm.kernels.common.statements import (
    FIRST_LEVEL,
    SECOND_LEVEL,
    Expr,
    block,
    loads,
    loop,
    prefetch,
    uses,
)
from graphopt.targets.tvm.kernels.matmul.plan import LINE_BYTES
from graphopt.targets.tvm.kernels.matmul.product import Product

FETCHING_TILES = 2
"""The number of row tiles from which it pays to prefetch the next panel."""
FETCH_STEPS = 8
"""The number of steps of K between two prefetched cache lines."""


@dataclass(frozen=True)
class PanelFetch:
    """The plan by which row tiles that run over K, or over a block of it, prefetch their share of the next panel.

    One cache line every `step` steps of K, in the first `tiles` tiles: many lines at once would wait for each other,
    and a longer loop between two of them is not unrolled.
    """

    right: tirx.Buffer
    """The packed operand: panels, K, `width` columns."""
    width: int
    first: Expr
    count: int
    """The steps of K: `count` of them from `first`."""
    step: int
    tiles: int

    @staticmethod
    def plan(product: Product, width: int, depth: tuple[Expr, Expr], tiles: int) -> PanelFetch | None:
        """Return the plan for `tiles` row tiles over the `depth` (first and number) of K; None if it does not pay."""
        first, count = depth[0], facts.extent(depth[1])
        if tiles < FETCHING_TILES or not count:
            return None
        # The operand that has columns; the left one may have equally many axes.
        right = next(load.source for load in loads(product.term.value) if uses(load, product.term.axes[-2]))
        lines = -(-count * width // _in_line(right))
        step = max(1, min(FETCH_STEPS, count * tiles // lines))
        return PanelFetch(right, width, first, count, step, min(tiles, -(-lines // max(1, count // step))))

    def steps(self, panel: Expr, tile: Expr, add: Callable[[Expr], tirx.Stmt]) -> tirx.Stmt:
        """Emit the loop over K of a tile on `panel`; `add` emits one of its steps."""
        parts, line = self.count // self.step, _in_line(self.right)
        last_panel, last_row = self.right.shape[0] - 1, self.right.shape[1] - 1

        def part(index: Expr) -> tirx.Stmt:
            at = (tile * parts + index) * line
            row = tirx.min(self.first + at // self.width, last_row)
            fetch = prefetch(self.right, [tirx.min(panel + 1, last_panel), row, at % self.width], SECOND_LEVEL)
            return block(fetch, loop(self.step, lambda k: add(self.first + index * self.step + k), "k"))

        done, left = parts * self.step, self.count % self.step
        rest = loop(left, lambda k: add(self.first + (done + k)), "k") if left else None
        return block(loop(parts, part, "part"), rest)


def fetch_residuals(
    product: Product, batch: list[Expr], first: Expr, height: int, columns: tuple[Expr, int]
) -> Iterator[tirx.Stmt]:
    """Prefetch what is added to a tile of `height` rows from `first` and `columns` (first and number) of them.

    It arrives from memory while the sums are computed.
    """
    for row in range(height):
        for column in range(0, columns[1], _in_line(product.finish.target)):
            for load in product.residuals([*batch, first + row, columns[0] + column]):
                yield prefetch(load.source, list(load.indices), FIRST_LEVEL)


def _in_line(buffer: tirx.Buffer) -> int:
    """Return the number of elements in a cache line."""
    return LINE_BYTES * 8 // tvm_ffi.dtype(str(buffer.dtype)).bits
