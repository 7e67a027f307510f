"""What a cumulative sum or product is: the operation, the direction, and the type it is computed in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Scan:
    """`combine` from `neutral` on, in numbers of type `kind` and vectors of `lanes`.

    `exclusive` leaves the element itself out; `reverse` begins at the end.
    """

    combine: Callable[[Any, Any], Any]
    neutral: Any
    kind: str
    lanes: int
    exclusive: bool
    reverse: bool
