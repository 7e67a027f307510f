"""Sizes during lowering: named, derived, and checked at run time if they cannot be proven."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import relax, tirx

from graphopt.targets.tvm.lowering.operand import Dim, Operand
from graphopt.targets.tvm.lowering.registry import Declined
from graphopt.targets.tvm.lowering.symbols import Symbols


class Sizes:
    """The symbolic sizes of a lowering, and the code from `builder` that defines and checks them."""

    def __init__(self, builder: relax.BlockBuilder) -> None:
        self.builder = builder
        self.symbols = Symbols()
        self.prologue: list[relax.Binding] = []
        self.is_pure = True
        self._depth = 0

    def dim(self, size: Dim) -> Dim:
        """Return a number or a plain variable equal to `size`, defined in the emitted code if it is new."""
        return self.symbols.derived(size, self._define)

    def shape(self, sizes: Sequence[Dim]) -> tuple[Dim, ...]:
        return tuple(self.dim(size) for size in sizes)

    def _define(self, size: tirx.Expr, var: tirx.Var) -> None:
        """Define a variable in the compiled code: at its start, unless code must run to compute the value."""
        self._match(size, var, early=not self.symbols.is_late(size))

    def _match(self, value: Dim, pattern: Dim, *, early: bool) -> None:
        """Define `pattern` as `value` if it is a new variable, else check that they are equal.

        The value goes through a call that is opaque to TVM. Otherwise TVM would substitute the definition for the
        variable, and its fusion then fails on kernels that take the size as an argument.
        """
        shape = relax.ShapeExpr([extent(value)])
        kind, wanted = relax.ShapeType(ndim=1), relax.ShapeType([extent(pattern)])
        if early:
            opaque, result = relax.Var("size", kind), relax.Var("size", wanted)
            call = relax.op.call_pure_packed("vm.builtin.copy", shape, ty_args=kind)
            self.prologue += [relax.VarBinding(opaque, call), relax.MatchCast(result, opaque, wanted)]
        else:
            self.match_late(call_packed("vm.builtin.copy", shape, ty_args=kind), wanted)

    def match_late(self, call: relax.Expr, wanted: relax.ShapeType) -> None:
        """Bind or check the result of a call at the current position of the code.

        Impure calls stay outside the blocks that TVM fuses: inside of one, it would move kernels before the definition
        of the sizes that they use.
        """
        self.builder.match_cast(self.builder.emit(call), wanted)
        self.barrier()

    def barrier(self) -> None:
        """End a block of pure code, so that sizes matched before can be used by the code after it."""
        nothing = relax.ShapeExpr([tirx.IntImm("int64", 0)])
        self.builder.emit(call_packed("vm.builtin.copy", nothing, ty_args=relax.ShapeType(ndim=1)))
        self.is_pure = False

    def same(self, left: Dim, right: Dim) -> bool:
        """Return whether two sizes are certainly equal."""
        return self.symbols.equal(left, right)

    def check_equal(self, left: Dim, right: Dim) -> None:
        """Check at run time that two sizes are equal. Raises Declined if they never are."""
        if isinstance(left, int) and isinstance(right, int) and left != right:
            raise Declined(f"a size of {left} where {right} is needed")
        if isinstance(left, int) and not isinstance(right, int):
            left, right = right, left
        self._match(self.symbols.expand(left), self.dim(right), early=not self._is_late(left, right))
        if self._depth == 0:
            self.symbols.assume_equal(left, right)

    def check_positive(self, size: Dim) -> None:
        """Check at run time that a size is not 0, if that is not known."""
        if isinstance(size, int) or self.symbols.is_positive(size):
            return
        one = tirx.IntImm("int64", 1)
        self.check_equal(tirx.min(self.symbols.expand(size), one), 1)
        self.symbols.assume_positive(size)

    def _is_late(self, *sizes: Dim) -> bool:
        return self._depth > 0 or any(self.symbols.is_late(self.symbols.expand(size)) for size in sizes)

    def require(self, operand: Operand, shape: Sequence[Dim]) -> Operand:
        """Return the operand after ensuring that it has `shape`, by proof or by a check at run time.

        Its own expressions for its sizes are kept. Raises Declined if they certainly differ.
        """
        if operand.rank != len(shape):
            raise Declined(f"rank {operand.rank} where {len(shape)} is needed")
        for have, want in zip(operand.shape, shape):
            if isinstance(have, int) and isinstance(want, int) and have != want:
                raise Declined(f"shape {list(operand.shape)} where {list(shape)} is needed")
        for have, want in zip(operand.shape, shape):
            if not self.same(have, want):
                self.check_equal(have, want)
        return operand

    def broadcast(self, operands: Sequence[Operand]) -> tuple[list[Operand], tuple[Dim, ...]]:
        """Return the operands, and their common shape as numpy broadcasts them.

        A size of an operand is then 1, or that of the result, or an open one that may turn out to be either: kernels
        read it through `converters.tensors.broadcast_read`. Whatever cannot be proven is checked at run time.
        """
        rank = max(operand.rank for operand in operands)
        shape: list[Dim] = [1] * rank
        for axis in range(rank):
            sizes = [o.shape[axis - rank] for o in operands if o.rank >= rank - axis]
            shape[axis] = self._broadcast_size(sizes)
        return list(operands), tuple(shape)

    def _broadcast_size(self, sizes: Sequence[Dim]) -> Dim:
        numbers = {size for size in sizes if isinstance(size, int) and size != 1}
        if len(numbers) > 1:
            raise Declined(f"sizes {sorted(numbers)} do not broadcast")
        symbolic = [size for size in sizes if not isinstance(size, int)]
        result: Dim = next(iter(numbers)) if numbers else 1
        for size in symbolic:
            result = size if isinstance(result, int) and result == 1 else self._stretched(size, result)
        return result

    def _stretched(self, size: Dim, other: Dim) -> Dim:
        """Return the size that an open one and another broadcast to."""
        if self.same(size, other) or self.symbols.stretches(size, other):
            return other
        if self.symbols.stretches(other, size):
            return size
        result = other
        if not isinstance(other, int):
            # A new size, not an expression, because the expressions in a chain of broadcasts would double at each step.
            one = tirx.IntImm("int64", 1)
            result = self.symbols.fresh("d", late=self._is_late(size, other))
            self._match(tirx.Select(tirx.EQ(other, one), size, other), result, early=not self._is_late(size, other))
        for given in (size, other):
            self._check_stretches(given, result)
        return result

    def _check_stretches(self, size: Dim, result: Dim) -> None:
        """Check at run time that a size is 1 or `result`."""
        if isinstance(size, int) or size is result:
            return
        found = tirx.Select(tirx.EQ(size, tirx.IntImm("int64", 1)), extent(result), size)
        self._match(found, result, early=not self._is_late(size, result))
        if self._depth == 0:
            self.symbols.assume_stretches(size, result)


def call_packed(name: str, argument: relax.Expr, ty_args: relax.ShapeType) -> relax.Call:
    """Return a call of a runtime function that TVM assumes to have side effects."""
    return relax.Call(relax.ExternFunc(name), [argument], ty_args=[ty_args])


def extent(dim: Dim) -> tirx.Expr:
    return tirx.IntImm("int64", dim) if isinstance(dim, int) else dim
