"""Small constant matrices times vectors in registers, written out as few fused multiply-adds as their structure allows.

Of two rows (or columns) that differ only in signs, the parts in which they agree and in which they differ are computed
once: the transforms of Winograd convolution at points +p and -p take half of the operations so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

from graphopt.targets.tvm.kernels.common.nest import vectorized
from graphopt.targets.tvm.kernels.common.norms import Registers, number
from graphopt.targets.tvm.kernels.winograd.toom_cook import Matrix

Load = Callable[[int, Any], Any]
"""(element of the input, lane) -> its value."""
Store = Callable[[int, Any, Any], None]
"""Takes (element of the result, lane, value)."""


def multiply_by_rows(matrix: Matrix, lanes: int, load: Load, store: Store) -> None:
    """Emit `store(i, lane, (matrix @ x)[i])` for all i, with pairs of rows that differ in signs computed together."""
    pairs = _pairs(matrix)
    x, parts = Registers(len(matrix[0]), lanes), Registers(max(1, 2 * len(pairs)), lanes)
    with vectorized(lanes) as lane:
        for i in range(len(matrix[0])):
            x.store(i, lane, load(i, lane))
        for k, (first, second) in enumerate(pairs):
            agree, differ = _halves(matrix[first], matrix[second])
            scale = next(c for c in reversed(differ) if c)  # last: the highest power has the simplest factor
            parts.store(2 * k, lane, _combine(agree, lambda i: x.load(i, lane)))
            parts.store(2 * k + 1, lane, _combine([c / scale for c in differ], lambda i: x.load(i, lane)))
            for row, factor in ((first, scale), (second, -scale)):
                value = _combine([Fraction(1), factor], lambda i, k=k: parts.load(2 * k + i, lane))  # type: ignore[misc]
                store(row, lane, value)
        for row in sorted(set(range(len(matrix))) - {row for pair in pairs for row in pair}):
            store(row, lane, _combine(matrix[row], lambda i: x.load(i, lane)))


def multiply_by_columns(matrix: Matrix, lanes: int, load: Load, store: Store) -> None:
    """Emit `store(i, lane, (matrix @ x)[i])` for all i, from sums and differences where columns differ in signs."""
    columns = tuple(zip(*matrix, strict=True))
    pairs = _pairs(columns)
    x = Registers(len(columns), lanes)
    with vectorized(lanes) as lane:
        for i in sorted(set(range(len(columns))) - {i for pair in pairs for i in pair}):
            x.store(i, lane, load(i, lane))
        for first, second in pairs:
            x.store(first, lane, load(first, lane) + load(second, lane))
            x.store(second, lane, load(first, lane) - load(second, lane))
        for i, row in enumerate(matrix):
            factors = list(row)
            for first, second in pairs:
                (factors[first],), (factors[second],) = _halves([row[first]], [row[second]])
            store(i, lane, _combine(factors, lambda j: x.load(j, lane)))


def _pairs(vectors: Sequence[Sequence[Fraction]]) -> list[tuple[int, int]]:
    """Disjoint pairs of different vectors that are alike but for signs."""
    found: list[tuple[int, int]] = []
    used: set[int] = set()
    for i, first in enumerate(vectors):
        for j in range(i + 1, len(vectors)):
            alike = first != vectors[j] and all(abs(a) == abs(b) for a, b in zip(first, vectors[j], strict=True))
            if alike and not {i, j} & used:
                found.append((i, j))
                used |= {i, j}
    return found


def _halves(first: Sequence[Fraction], second: Sequence[Fraction]) -> tuple[list[Fraction], list[Fraction]]:
    """`agree` and `differ` with first = agree + differ and second = agree - differ."""
    pairs = list(zip(first, second, strict=True))
    return [(a + b) / 2 for a, b in pairs], [(a - b) / 2 for a, b in pairs]


def _combine(factors: Sequence[Fraction], load: Callable[[int], Any]) -> Any:
    """The sum of factor times element, terms without a multiplication first so that all others fuse."""
    total: Any = None
    for factor, i in sorted(((c, i) for i, c in enumerate(factors) if c), key=lambda term: abs(term[0]) != 1):
        if total is None:
            total = load(i) if factor == 1 else load(i) * number(factor)
        elif abs(factor) == 1:
            total = total + load(i) if factor == 1 else total - load(i)
        else:
            total = total + load(i) * number(factor)
    return number(0) if total is None else total
