"""Expressions as directed graphs: a value that is used several times is computed once.

TIR's expressions are trees, in which `let` gives a name to a value with several uses. `Sharing` numbers the values of a
tree, equal ones alike, and decomposes it into bindings of those that are used more than once, and a rest that reads
them. The size of code is then linear in the number of different values.

A value that only one side of a condition needs is not moved before the condition where computing it there could fail
(it loads an element that may not exist) or would be wasted (`if_then_else`): it is bound inside, by a `let`. The whole
choice then gets a name too, so that its sides can become statements.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import tvm_ffi
from tvm import ir, tirx

from graphopt.targets.tvm.tir_passes import let
from graphopt.targets.tvm.tir_passes.expressions import (
    constant_key,
    has_no_register,
    is_choice,
    is_conditional,
    is_integer,
    is_pure,
    label_of,
    operands_of,
    rebuilt,
)

Expr = Any

_DIVISIONS = (tirx.Div, tirx.Mod, tirx.FloorDiv, tirx.FloorMod)
_CONSTANTS = (tirx.IntImm, tirx.FloatImm, ir.StringImm)
_TOP = 0
"""The scope of unconditional computations."""


@dataclass
class _Node:
    """A value: its expression with operands replaced later, the numbers of its operands, where it is needed."""

    expr: Expr
    operands: tuple[int, ...]
    safe: bool
    """Whether computing it cannot fail, whatever its operands are."""
    wide: bool
    """Whether it is a vector in a vector loop: it depends on the lane, or on what is loaded, which is kept in one."""
    reads: tuple[int, ...] | None = None
    """Of an expression that is left as it is: the numbers of the lets around it that its operands are the values of."""
    uses: int = 0
    scope: int | None = None


@dataclass
class _Scope:
    """A scope that is evaluated only under a condition; `lazy`: it takes time that the other case saves."""

    parent: int
    depth: int
    lazy: bool


@dataclass
class Sharing:
    """Decomposes one value; `place` is the element that it is stored to, which is known to exist.

    `lane` is the variable of the vector loop around it. Both sides of a `Select` by a vector are computed.
    """

    place: tuple[Any, Sequence[Expr]] | None = None
    lane: tirx.Var | None = None
    _nodes: list[_Node] = field(default_factory=list)
    _numbers: dict[Any, int] = field(default_factory=dict)
    _seen: dict[tuple[int, int], int] = field(default_factory=dict)
    _alive: list[Any] = field(default_factory=list)
    _scopes: list[_Scope] = field(default_factory=lambda: [_Scope(_TOP, 0, lazy=False)])
    _lets: dict[int, int] = field(default_factory=dict)
    _branches: dict[tuple[int, int], int] = field(default_factory=dict)

    def split(self, value: Expr) -> tuple[list[tuple[ir.Call, Expr]], Expr]:
        """Return the bindings (the read of each, its value), each of which reads only earlier ones, and the rest."""
        root = self._number(value)
        self._find_scopes(root)
        bound = {n for n, node in enumerate(self._nodes) if self._is_bound(n, node, root)}
        self._bind_choices(bound, root)
        return self._written(root, bound)

    # --- numbering

    def _number(self, expr: Expr) -> int:
        """Return the number of a value; equal values have the same number.

        It does not recurse: fused functions may be hundreds of operators deep.
        """
        steps, answer = [self._steps(expr)], None
        while steps:
            try:
                operand = steps[-1].send(answer)
            except StopIteration as done:
                answer = done.value
                steps.pop()
            else:
                steps.append(self._steps(operand))
                answer = None
        assert answer is not None
        return answer

    def _steps(self, expr: Expr) -> Generator[Expr, Any, int]:
        """Yield operands to get their numbers, one after the other, and return the number of `expr`."""
        if let.is_let(expr):
            name, outer = let.number_of(expr), self._lets.get(let.number_of(expr))
            self._lets[name] = yield expr.args[1]
            body = yield expr.args[2]
            if outer is not None:  # a copy of this let surrounds it
                self._lets[name] = outer
            return int(body)
        if let.is_read(expr):
            return self._lets[let.number_of(expr)]
        if isinstance(expr, tirx.Var):
            return self._node(("var", hash(expr)), expr, (), safe=True)
        children = operands_of(expr)
        if children is None:
            return self._opaque(expr)
        numbers = []
        for child in children:
            number = yield child
            numbers.append(number)
        return self._node((label_of(expr), *numbers), expr, tuple(numbers), safe=self._is_safe(expr))

    def _opaque(self, expr: Expr) -> int:
        """Return the number of a constant or an unsupported expression, whose operands are only the lets around it."""
        if isinstance(expr, _CONSTANTS):
            return self._node(constant_key(expr), expr, (), safe=True)
        expr = let.written_out(expr)
        outer = tuple(dict.fromkeys(let.number_of(read) for read in let.reads_of(expr)))
        number = self._node(("other", hash(expr)), expr, tuple(self._lets[name] for name in outer), safe=False)
        self._nodes[number].reads = outer
        self._alive.append(expr)
        return number

    def _node(self, key: Any, expr: Expr, operands: tuple[int, ...], *, safe: bool) -> int:
        found = self._numbers.get(key)
        if found is None:
            found = self._numbers[key] = len(self._nodes)
            wide = self.lane is not None and (
                any(self._nodes[operand].wide for operand in operands) or self._is_wide(expr)
            )
            self._nodes.append(_Node(expr, operands, safe, wide))
        return found

    def _is_wide(self, expr: Expr) -> bool:
        """Return whether an expression is a load or the lane, or contains them and is left as it is."""
        if isinstance(expr, ir.TensorLoad):
            return True
        if isinstance(expr, tirx.Var):
            return expr.same_as(self.lane)
        if isinstance(expr, _CONSTANTS) or operands_of(expr) is not None:
            return False
        found: list[Any] = []
        tvm_ffi.structural_walk(expr, [((tirx.Var, ir.TensorLoad), found.append)])
        return any(isinstance(one, ir.TensorLoad) or one.same_as(self.lane) for one in found)

    def _is_safe(self, expr: Expr) -> bool:
        if isinstance(expr, ir.TensorLoad):
            return self._is_stored_place(expr)
        if isinstance(expr, _DIVISIONS):
            return not is_integer(expr) or isinstance(expr.b, tirx.IntImm)
        return not isinstance(expr, ir.Call) or is_pure(expr)

    def _is_stored_place(self, load: ir.TensorLoad) -> bool:
        if self.place is None:
            return False
        buffer, indices = self.place
        equal = tvm_ffi.structural_equal
        return equal(load.source.shape, buffer.shape) and equal(list(load.indices), list(indices))

    # --- scopes

    def _find_scopes(self, root: int) -> None:
        """Find where each value is needed first: readers come before their operands, which have smaller numbers."""
        self._nodes[root].scope, self._nodes[root].uses = _TOP, 1
        for number in reversed(range(len(self._nodes))):
            node = self._nodes[number]
            if node.scope is None:
                continue  # a let that nothing reads
            for position, operand in enumerate(node.operands):
                child = self._nodes[operand]
                child.uses += 1
                inside = self._inside(number, position)
                child.scope = inside if child.scope is None else self._common(child.scope, inside)
        for node in self._nodes:
            if node.scope is not None and node.safe and self._operands_at(node, self._eager(node.scope)):
                node.scope = self._eager(node.scope)

    def _inside(self, number: int, position: int) -> int:
        """Return the scope in which an operand of a value is evaluated."""
        node = self._nodes[number]
        assert node.scope is not None
        lazy = is_conditional(node.expr)
        everywhere = isinstance(node.expr, tirx.Select) and self._nodes[node.operands[0]].wide
        if position == 0 or everywhere or not is_choice(node.expr):
            return node.scope
        key = (number, position)
        if key not in self._branches:
            self._branches[key] = len(self._scopes)
            self._scopes.append(_Scope(node.scope, self._scopes[node.scope].depth + 1, lazy))
        return self._branches[key]

    def _common(self, a: int, b: int) -> int:
        while a != b:
            if self._scopes[a].depth < self._scopes[b].depth:
                a, b = b, a
            a = self._scopes[a].parent
        return a

    def _eager(self, scope: int) -> int:
        """Return the scope, or the one around it if both sides of a Select are computed anyway."""
        while scope != _TOP and not self._scopes[scope].lazy:
            scope = self._scopes[scope].parent
        return scope

    def _operands_at(self, node: _Node, scope: int) -> bool:
        """Return whether all operands of a value are available at `scope`."""
        scopes = (self._nodes[operand].scope for operand in node.operands)
        return all(at is not None and self._common(at, scope) == at for at in scopes)

    # --- writing

    def _is_bound(self, number: int, node: _Node, root: int) -> bool:
        """Return whether it is used repeatedly, worth a name, and not an index, which vectors need to see through."""
        if node.uses < 2 or number == root or not node.operands or has_no_register(node.expr):
            return False
        return isinstance(node.expr, ir.TensorLoad) or not is_integer(node.expr) or self._reads(number)

    def _bind_choices(self, bound: set[int], root: int) -> None:
        """Add the choices between sides of which one binds values itself."""
        inside = {self._nodes[number].scope for number in bound}
        for (number, _), scope in sorted(self._branches.items()):
            node = self._nodes[number]
            if scope in inside and number != root and not has_no_register(node.expr):
                bound.add(number)
                inside.add(node.scope)

    def _reads(self, number: int) -> bool:
        """Return whether an integer value is computed from loaded or floating-point ones."""
        stack, seen = [number], {number}
        while stack:
            node = self._nodes[stack.pop()]
            if isinstance(node.expr, ir.TensorLoad) or not is_integer(node.expr):
                return True
            stack += [operand for operand in node.operands if operand not in seen]
            seen.update(node.operands)
        return False

    def _written(self, root: int, bound: set[int]) -> tuple[list[tuple[ir.Call, Expr]], Expr]:
        """Return expressions for all values in order; those `bound` at the top become bindings."""
        names = {n: let.reference(str(self._nodes[n].expr.ty.dtype)) for n in bound}
        made: dict[int, Expr] = {}
        top: list[tuple[ir.Call, Expr]] = []
        inner: dict[int, list[tuple[ir.Call, Expr]]] = {}
        for number, node in enumerate(self._nodes):
            if node.scope is None:
                continue
            operands = []
            for position, operand in enumerate(node.operands):
                value = names.get(operand, made.get(operand))
                branch = self._branches.get((number, position))
                if branch is not None:
                    value = _wrapped(value, inner.pop(branch, []))
                operands.append(value)
            if node.reads is None:
                expr = rebuilt(node.expr, operands)
            else:
                expr = let.replace_reads(node.expr, dict(zip(node.reads, operands, strict=True)))
            if number in names:
                (top if node.scope == _TOP else inner.setdefault(node.scope, [])).append((names[number], expr))
            made[number] = expr
        return top, made[root]


def _wrapped(value: Expr, bindings: list[tuple[ir.Call, Expr]]) -> Expr:
    for read, bound in reversed(bindings):
        value = let.let_as(read, bound, value)
    return value
