"""The budget of lossy passes: how much of a metric may be lost."""

from __future__ import annotations

import re
from dataclasses import dataclass

from graphopt.errors import InputError


@dataclass(frozen=True)
class Budget:
    """The largest loss of a metric, as defined by `Metric.loss`, for all lossy passes together: 0.01 is one percent.

    Raises InputError for a limit that is not in [0, 1), which would accept anything.
    """

    max_drop: float

    def __post_init__(self) -> None:
        if not 0 <= self.max_drop < 1:
            raise InputError(
                f"a loss of {self.max_drop:g} would accept anything: it must be in [0, 1)", remedy="write 1% or 0.01"
            )

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Parse `1%`, `0.5%` or `0.01`. Raises InputError for anything else."""
        found = re.fullmatch(r"(\d+(?:\.\d*)?(?:e-?\d+)?)\s*(%?)", text.strip())
        if found is None:
            raise InputError(f"cannot read '{text}' as a loss", where="--max-drop", remedy="write 1% or 0.01")
        return cls(float(found[1]) / (100 if found[2] else 1))

    def __str__(self) -> str:
        return f"{self.max_drop:.6g}"
