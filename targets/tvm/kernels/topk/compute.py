"""The order of the first k elements of a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx

Expr = Any


@dataclass(frozen=True)
class Order:
    """Largest or smallest first, compared as numbers of type `kind`; NaN counts as the largest.

    No comparison is negated: TVM turns not `a > b` into `a <= b`, which differs for NaN.
    """

    kind: str
    largest: bool

    def better(self, a: Expr, b: Expr) -> Expr:
        """Return whether value a comes before value b, ignoring positions."""
        a, b = a.astype(self.kind), b.astype(self.kind)
        if not self.largest:
            a, b = b, a
        return tirx.Or(a > b, tirx.And(tirx.isnan(a), tirx.Not(tirx.isnan(b)))) if self._is_float else a > b

    def before(self, a: Expr, place_a: Expr, b: Expr, place_b: Expr) -> Expr:
        """Return whether value a comes before value b; of equal values, the one at the lower position does."""
        x, y = a.astype(self.kind), b.astype(self.kind)
        same = tirx.EQ(x, y)
        if self._is_float:
            same = tirx.Or(same, tirx.And(tirx.isnan(x), tirx.isnan(y)))
        return tirx.Or(self.better(a, b), tirx.And(same, place_a < place_b))

    @property
    def _is_float(self) -> bool:
        return self.kind.startswith("float")
