"""The parameters of a cumulative sum or product: the operation, the direction, and the type to compute in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Scan:
    """`combine`, starting from `neutral`, on numbers of type `kind` and vectors of `lanes`.

    `exclusive` excludes the element itself; `reverse` starts at the end.
    """

    combine: Callable[[Any, Any], Any]
    neutral: Any
    kind: str
    lanes: int
    exclusive: bool
    reverse: bool
