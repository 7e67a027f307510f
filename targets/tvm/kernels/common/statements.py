"""Shorthand for building loop nests as TIR statements."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import tvm_ffi
from tvm import ir, sym, tirx

Expr = Any


def int64(value: int) -> tirx.IntImm:
    return tirx.IntImm("int64", value)


def block(*statements: tirx.Stmt | None) -> tirx.Stmt:
    """Return the statements in sequence; None is omitted."""
    kept = [statement for statement in statements if statement is not None]
    return kept[0] if len(kept) == 1 else tirx.SeqStmt(kept)


def loop(
    extent: int | Expr, body: Callable[[Expr], tirx.Stmt], name: str, kind: tirx.ForKind = tirx.ForKind.SERIAL
) -> tirx.Stmt:
    """Return a loop with `body` for each index below `extent`; an extent of 1 needs no loop."""
    if isinstance(extent, int | tirx.IntImm) and int(extent) == 1:
        return body(int64(0))
    var = tirx.Var(name, "int64")
    size = int64(extent) if isinstance(extent, int) else extent
    return tirx.For(var, int64(0), size, kind, body(var))


def vectors(lanes: int, body: Callable[[Expr], tirx.Stmt]) -> tirx.Stmt:
    """Return `body` for `lanes` elements at once."""
    return loop(lanes, body, "lane", tirx.ForKind.VECTORIZED)


def over(cover: Iterable[tuple[int, int]], body: Callable[[Expr], tirx.Stmt]) -> list[tirx.Stmt]:
    """Return `body` for the elements covered by vectors, each given by its first element and its lanes."""

    def one(first: int, lanes: int) -> tirx.Stmt:
        return vectors(lanes, lambda lane: body(first + lane))

    return [one(first, lanes) for first, lanes in cover]


def parallel(extent: int | Expr, body: Callable[[Expr], tirx.Stmt], name: str, threads: bool) -> tirx.Stmt:
    """Return a loop with `body` for each index, on several cores if `threads`."""
    return loop(extent, body, name, tirx.ForKind.PARALLEL if threads else tirx.ForKind.SERIAL)


def buffer(shape: Sequence[int], dtype: str, name: str, scope: str = "local") -> tirx.Buffer:
    """Return a buffer to be allocated: of scope "local" for what LLVM should keep in registers, else "global"."""
    return tirx.decl_buffer([int64(size) for size in shape], dtype, name, scope=scope, data_alignment=64, layout=None)


def with_buffer(allocated: tirx.Buffer, *statements: tirx.Stmt | None) -> tirx.Stmt:
    """Return the statements with an allocation of the buffer around them."""
    return block(tirx.AllocBuffer(allocated), *statements)


def replaced(node: Any, values: Mapping[Any, Expr]) -> Any:
    """Return `node` with variables replaced."""
    pairs = list(values.items())
    return tvm_ffi.structural_map(
        node,
        (tirx.Var, lambda var: next((new for old, new in pairs if var.same_as(old)), var)),
        order="post",
    )


FIRST_LEVEL, SECOND_LEVEL = 3, 2
"""The caches to prefetch into, by the numbers of the instruction."""


def prefetch(buffer: tirx.Buffer, indices: Sequence[Expr], level: int) -> tirx.Stmt:
    """Prefetch the cache line of an element, which may be outside the buffer, because nothing is read."""
    address = tirx.address_of(tirx.BufferLoad(buffer, list(indices)))
    number = [tirx.const(value, "int32") for value in (0, level, 1)]
    return tirx.Evaluate(tirx.call_llvm_intrin("void", "llvm.prefetch.p0", address, *number))


def loads(node: Any) -> list[ir.TensorLoad]:
    """Return every load in `node`."""
    found: list[ir.TensorLoad] = []
    tvm_ffi.structural_walk(node, [(ir.TensorLoad, found.append)])
    return found


def uses(load: ir.TensorLoad, axis: tirx.Var) -> bool:
    """Return whether the position of the element that is read depends on `axis`."""
    found: list[tirx.Var] = []
    for index in load.indices:
        tvm_ffi.structural_walk(index, [(tirx.Var, found.append)])
    return any(var.same_as(axis) for var in found)


def ceil_div(size: Expr, step: int) -> Expr:
    """Return `size / step`, rounded up."""
    return sym.Analyzer().simplify((size + (step - 1)) // step)


def product_of(sizes: Sequence[Expr]) -> Expr:
    """Return the product of sizes."""
    total: Expr = int64(1)
    for size in sizes:
        total = total * size
    return sym.Analyzer().simplify(total)


def unflatten(index: Expr, sizes: Sequence[Expr]) -> list[Expr]:
    """Return the row-major index of a position."""
    place: list[Expr] = []
    for position, size in reversed(list(enumerate(sizes))):
        if _is_one(size):
            place.insert(0, int64(0))
            continue
        first = all(_is_one(other) for other in sizes[:position])
        place.insert(0, index if first else index % size)
        index = index // size
    return place


def _is_one(size: Expr) -> bool:
    return isinstance(size, tirx.IntImm) and int(size) == 1


def pieces(count: int, lanes: int) -> Iterator[tuple[int, int]]:
    """Yield offset and length of the vectors, full ones and then powers of two, that cover `count` elements."""
    at = 0
    while at < count:
        while lanes > count - at:
            lanes //= 2
        yield at, lanes
        at += lanes


Multiply = Callable[[tirx.Buffer, Expr, int, tuple[int, int], Expr], tirx.Stmt]
"""Adds to a vector of sums: `multiply(sums, at, row, (column, lanes), k)`."""


def adding(term: Callable[[int, Expr, Expr], Expr]) -> Multiply:
    """Return what adds `term(row, column, k)` to each sum."""

    def multiply(sums: tirx.Buffer, at: Expr, row: int, span: tuple[int, int], k: Expr) -> tirx.Stmt:
        first, lanes = span
        return vectors(
            lanes, lambda lane: tirx.BufferStore(sums, sums[at + lane] + term(row, first + lane, k), [at + lane])
        )

    return multiply


def register_tile(
    height: int,
    cover: Sequence[tuple[int, int]],
    dtype: str,
    sum_up: Callable[[Callable[[Expr], tirx.Stmt]], tirx.Stmt],
    multiply: Multiply,
    store: Callable[[int, Expr, Expr], tirx.Stmt],
) -> tirx.Stmt:
    """Return the sums of `height` rows by the columns in `cover`, kept in registers until everything is added.

    `multiply` adds step k to a vector of sums; `sum_up(add)` makes the loop over the steps; `store(row, column, total)`
    stores a finished sum.
    """
    first, width = cover[0][0], sum(lanes for _, lanes in cover)
    sums = buffer([height * width], dtype, "sum")

    def each(make: Callable[[int, Expr, Expr], tirx.Stmt]) -> list[tirx.Stmt]:
        def row(r: int) -> list[tirx.Stmt]:
            return over(cover, lambda column: make(r, column, column + (r * width - first)))

        return [statement for r in range(height) for statement in row(r)]

    def clear(_row: int, _column: Expr, at: Expr) -> tirx.Stmt:
        return tirx.BufferStore(sums, tirx.const(0, dtype), [at])

    def add(k: Expr) -> tirx.Stmt:
        columns = [(r, span, r * width - first + span[0]) for r in range(height) for span in cover]
        return block(*(multiply(sums, int64(at), r, span, k) for r, span, at in columns))

    return with_buffer(sums, *each(clear), sum_up(add), *each(lambda r, column, at: store(r, column, sums[at])))
