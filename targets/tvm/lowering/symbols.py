"""The symbolic sizes of a model: names, known properties, and proofs about them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import tvm
import tvm_ffi
from tvm import tirx

from graphopt.targets.tvm.lowering.operand import Dim

LARGEST = 10**9
"""The assumed upper bound of every size of a model; exporters write it to mean "to the end"."""


class Symbols:
    """Symbolic integers, each a `tirx.Var`, with the definitions of those that follow from others."""

    def __init__(self) -> None:
        self.analyzer = tvm.sym.Analyzer()
        self._named: dict[str, tirx.Var] = {}
        self._known: dict[tirx.Var, tirx.Expr | None] = {}
        self._derived: dict[str, tirx.Var] = {}
        self._names: set[str] = set()
        self._late: dict[tirx.Var, None] = {}
        self._hidden: set[tirx.Var] = set()
        self._positive: set[str] = set()
        self._checked: set[frozenset[str]] = set()
        self._stretching: set[tuple[str, str]] = set()

    def size(self, name: str | None) -> tirx.Var:
        """Return the size that a model calls `name`; a new one for each call with None."""
        if name is None:
            return self.fresh("d")
        if name not in self._named:
            self._named[name] = self.fresh(name)
        return self._named[name]

    def fresh(self, hint: str, *, largest: int = LARGEST, late: bool = False) -> tirx.Var:
        """Return a new integer that is only known to be non-negative and at most `largest`.

        A `late` one is not determined by the shapes of the inputs: code must run to compute it.
        """
        clean = "".join(c if c.isalnum() and c.isascii() else "_" for c in hint) or "d"
        # Names are unique, because expressions are distinguished by their text.
        name = unique(clean if not clean[0].isdigit() else f"d{clean}", self._names)
        var = tirx.Var(name, "int64")
        self._known[var] = None
        if late:
            self._late[var] = None
        self.analyzer.update(var, tvm.sym.ConstIntBound(0, largest))
        return var

    def __contains__(self, var: tirx.Var) -> bool:
        return var in self._known

    def simplify(self, expr: Dim) -> Dim:
        """Return an equal expression, as short as the analyzer can make it; a Python int if it is constant."""
        if isinstance(expr, int):
            return expr
        result = self.analyzer.simplify(expr)
        return int(result) if isinstance(result, tirx.IntImm) else result

    def expand(self, expr: Dim) -> Dim:
        """Return `expr` over the model's own sizes: derived ones are replaced by their definitions, then simplified."""
        if isinstance(expr, int):
            return expr

        return self.simplify(self._substitute(expr))

    def _substitute(self, expr: tirx.Expr) -> tirx.Expr:
        def definition(var: tirx.Var) -> tirx.Expr:
            known = self._known.get(var)
            return var if known is None else known

        return tvm_ffi.structural_map(expr, (tvm.ir.Var, definition), order="post")

    def derived(self, expr: Dim, bind: Callable[[tirx.Expr, tirx.Var], None]) -> Dim:
        """Return a constant or a plain variable that equals `expr`, so that kernels have no arithmetic in their shapes.

        `bind` is called with the definition when a new variable is needed.
        """
        full = self.expand(expr)
        if isinstance(full, int | tirx.Var):
            return full
        key = str(full)
        if key not in self._derived:
            for known in self._derived.values():
                if self.equal(full, known):
                    return known
            var = self.fresh("d", late=self.is_late(full))
            bind(full, var)
            self._known[var] = full
            self._derived[key] = var
        return self._derived[key]

    def equal(self, left: Dim, right: Dim) -> bool:
        """Return whether two sizes are certainly the same."""
        if isinstance(left, int) and isinstance(right, int):
            return left == right
        if left is right or self._pair(left, right) in self._checked:
            return True
        return self.always(tirx.EQ(_expr(self.expand(left)), _expr(self.expand(right))))

    def assume_equal(self, left: Dim, right: Dim) -> None:
        """Assume from now on that two sizes are the same, which the compiled code checks."""
        self._checked.add(self._pair(left, right))

    def stretches(self, size: Dim, result: Dim) -> bool:
        """Return whether a size is certainly 1 or `result`, or is checked to be."""
        return (str(self.expand(size)), str(self.expand(result))) in self._stretching

    def assume_stretches(self, size: Dim, result: Dim) -> None:
        """Assume from now on that a size is 1 or `result`, which the compiled code checks."""
        self._stretching.add((str(self.expand(size)), str(self.expand(result))))

    def is_positive(self, size: Dim) -> bool:
        """Return whether a size is certainly not 0, or is checked not to be."""
        full = self.expand(size)
        if isinstance(full, int):
            return full > 0
        return str(full) in self._positive or self.always(full > tirx.IntImm("int64", 0))

    def assume_positive(self, size: Dim) -> None:
        """Assume from now on that a size is not 0, which the compiled code checks."""
        self._positive.add(str(self.expand(size)))

    def _pair(self, left: Dim, right: Dim) -> frozenset[str]:
        return frozenset((str(self.expand(left)), str(self.expand(right))))

    def always(self, condition: tirx.Expr | bool) -> bool:
        """Return whether a condition over sizes certainly holds."""
        return condition if isinstance(condition, bool) else bool(self.analyzer.can_prove(condition))

    def decide(self, condition: tirx.Expr | bool) -> tirx.Expr | bool:
        """Return a condition as True or False if that can be proven, else unchanged."""
        if isinstance(condition, bool):
            return condition
        full = self._substitute(condition)
        if self.analyzer.can_prove(full):
            return True
        if self.analyzer.can_prove(tirx.Not(full)):
            return False
        return condition

    def is_late(self, size: Dim) -> bool:
        """Return whether code must run before a size is known."""
        return not isinstance(size, int) and any(var in self._late for var in tirx.analysis.undefined_vars(size))

    def scope(self) -> Scope:
        """Return the current state of knowledge; `leave` returns to it."""
        return Scope(dict(self._derived), len(self._late))

    def leave(self, scope: Scope) -> None:
        """Forget late sizes found since `scope`: they were bound inside a branch that is now closed."""
        self._hidden.update(list(self._late)[scope.late :])
        kept = {key: var for key, var in self._derived.items() if var not in self._hidden}
        self._derived = scope.derived | kept

    def is_visible(self, size: Dim) -> bool:
        """Return whether a size can be computed here: none of its variables was bound in a closed branch."""
        if isinstance(size, int):
            return True
        return not any(var in self._hidden for var in tirx.analysis.undefined_vars(size))


@dataclass(frozen=True)
class Scope:
    """The derived sizes and the number of late ones at some moment."""

    derived: dict[str, tirx.Var]
    late: int


def unique(name: str, taken: set[str]) -> str:
    """Return `name`, or `name` with the first number that makes it new; add it to `taken`."""
    candidate, number = name, 0
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    taken.add(candidate)
    return candidate


def _expr(value: Dim) -> tirx.Expr:
    return tirx.IntImm("int64", value) if isinstance(value, int) else value
