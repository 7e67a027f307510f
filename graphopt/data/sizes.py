"""Sizes for the symbolic dimensions of a model's inputs, and checks of the user's sizes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from graphopt.errors import InputError
from graphopt.ir import Dim, Model, Shape, Value


def check_shape(model: Model, value: Value, shape: Sequence[int]) -> None:
    """Raise InputError unless an input may have this shape."""
    declared = value.shape
    if declared is None:
        return
    fits = len(declared) == len(shape) and all(not isinstance(d, int) or d == s for d, s in zip(declared, shape))
    if not fits:
        text = "x".join(map(str, shape)) or "scalar"
        raise InputError(f"input '{value.name}' is {value.type}: it cannot have shape {text}", where=model.name)


@dataclass(frozen=True)
class Choice:
    """Sizes for the roles that a symbolic dimension may have; `rank` for inputs of unknown rank."""

    batch: int
    length: int
    height: int
    width: int
    rank: int = 2


CHOICES = (
    Choice(2, 12, 64, 64),
    Choice(1, 12, 64, 64),
    Choice(1, 16, 224, 224, rank=1),
    Choice(1, 32, 48, 320, rank=3),
    Choice(1, 512, 32, 32, rank=4),
    Choice(1, 2, 128, 128, rank=0),
    Choice(2, 2, 256, 256),
    Choice(1, 1, 299, 299),
    Choice(3, 3, 3, 3),
    Choice(1, 128, 384, 384),
    Choice(1, 16000, 512, 512),
    Choice(1, 1, 1, 1),
)


@dataclass
class Plan:
    """The role of each symbolic dimension of the inputs, and the sizes that the user has fixed."""

    model: Model
    values: Mapping[str, Value]
    fixed: Mapping[str, Sequence[int]]
    roles: dict[str, str] = field(default_factory=dict)
    bound: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for value in self.values.values():
            for axis, dim in enumerate(value.shape or ()):
                if not isinstance(dim, int):
                    role = _role(value.shape or (), axis)
                    known = self.roles.setdefault(_symbol(dim, role, axis), role)
                    if role == "batch" and known == "length":
                        self.roles[_symbol(dim, role, axis)] = role
        for name, shape in self.fixed.items():
            self._bind(self.values[name], shape)

    @property
    def ranks_unknown(self) -> bool:
        """Return whether an input may have any rank, so that the rank of a choice matters."""
        return any(value.shape is None for value in self.values.values())

    def _bind(self, value: Value, shape: Sequence[int]) -> None:
        check_shape(self.model, value, shape)
        for axis, (dim, size) in enumerate(zip(value.shape or (), shape)):
            # A dimension without a name is bound only by its own input: it says nothing about others.
            if isinstance(dim, str) and self.bound.setdefault(dim, size) != size:
                raise InputError(
                    f"input '{value.name}' sets '{dim}' to {size}, but another input sets it to {self.bound[dim]}",
                    where=self.model.name,
                    remedy="use equal sizes wherever the model has the same name",
                )
            if dim is None:
                self.bound.setdefault(_symbol(dim, _role(value.shape or (), axis), axis), size)

    def sizes(self, choice: Choice) -> dict[str, int]:
        """Return a size for every symbol."""
        return self.summed({s: self.bound.get(s, getattr(choice, role)) for s, role in self.roles.items()})

    def summed(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Return the sizes, with those whose names are sums of others computed."""
        result = dict(sizes)
        for symbol in result:
            if symbol not in self.bound and (total := _sum(symbol, result)) is not None:
                result[symbol] = total
        return result

    def shape(self, value: Value, sizes: Mapping[str, int], choice: Choice) -> tuple[int, ...]:
        if value.name in self.fixed:
            return tuple(self.fixed[value.name])
        if value.shape is None:
            return (3, 4, 5, 6)[: choice.rank]
        shape: Shape = value.shape
        return tuple(
            dim if isinstance(dim, int) else sizes[_symbol(dim, _role(shape, axis), axis)]
            for axis, dim in enumerate(shape)
        )


def _symbol(dim: Dim, role: str, axis: int) -> str:
    """Return the name under which a size is chosen: unnamed sizes of different inputs mostly agree axis by axis."""
    if isinstance(dim, str):
        return dim
    return "?batch" if role == "batch" else f"?{role}{axis}"


def _role(shape: Shape, axis: int) -> str:
    """Return the most likely role of a dimension, judged by its position; trailing channels by their number."""
    last = isinstance(shape[-1], int) and shape[-1] in (1, 3, 4)
    first_spatial = 1 if len(shape) == 4 and last and not isinstance(shape[1], int) else 2
    recurrent = len(shape) == 3 and isinstance(shape[0], int) and isinstance(shape[2], int)
    if (axis == 0 and len(shape) > 1) or (axis == 1 and recurrent):
        return "batch"
    if len(shape) == 4 and first_spatial <= axis < first_spatial + 2:
        return "height" if axis == first_spatial else "width"
    name = shape[axis]
    if isinstance(name, str) and re.search(r"batch", name, re.IGNORECASE):
        return "batch"
    return "length"


def _sum(symbol: str, sizes: Mapping[str, int]) -> int | None:
    """Return the value of a size such as `past_length + 1`, if all its parts are known."""
    parts = [part.strip() for part in symbol.split("+")]
    if len(parts) < 2:
        return None
    numbers = [int(part) if part.isdecimal() else sizes.get(part) for part in parts]
    return None if None in numbers else sum(number for number in numbers if number is not None)
