"""The order in which the k first elements of a row are wanted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx

Expr = Any


@dataclass(frozen=True)
class Order:
    """Largest or smallest first, compared as numbers of type `kind`; NaN counts as the largest.

    Nothing is the negation of a greater or less: TVM makes `a <= b` of not `a > b`, which is something else for NaN.
    """

    kind: str
    largest: bool

    def better(self, a: Expr, b: Expr) -> Expr:
        """Return whether value a comes before value b whatever their places."""
        a, b = a.astype(self.kind), b.astype(self.kind)
        if not self.largest:
            a, b = b, a
        return tirx.Or(a > b, tirx.And(tirx.isnan(a), tirx.Not(tirx.isnan(b)))) if self._is_float else a > b

    def before(self, a: Expr, place_a: Expr, b: Expr, place_b: Expr) -> Expr:
        """Whether value a at its place comes before value b at another one: of equals the one at the lower place."""
        x, y = a.astype(self.kind), b.astype(self.kind)
        same = tirx.EQ(x, y)
        if self._is_float:
            same = tirx.Or(same, tirx.And(tirx.isnan(x), tirx.isnan(y)))
        return tirx.Or(self.better(a, b), tirx.And(same, place_a < place_b))

    @property
    def _is_float(self) -> bool:
        return self.kind.startswith("float")
