"""Facts about each operator, in one table that passes, analyses and generated inputs share.

A fact holds for an operator whatever its attributes and element types, unless a column says otherwise. Nothing is
assumed about an operator that is not listed. Tests check the table against ONNX's schemas and ONNX Runtime's results.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from graphopt.ir.facts_table import TABLE


class Kind(enum.Enum):
    """How the elements of the first output depend on those of the inputs."""

    COPY = "copy"
    """Each element of the first input in the same place, possibly in another type."""
    UNARY = "unary"
    """A function of one element of the first input; further inputs are scalars."""
    BROADCAST = "broadcast"
    """A function of one element of each input, after broadcasting the inputs."""
    SAME_SHAPE = "same-shape"
    """A result with the shape of the first input, whose elements may depend on each other."""
    VIEW = "view"
    """The elements of the first input in the same order, in another shape."""
    ARRANGE = "arrange"
    """Elements of the data inputs: a selection in any order, possibly repeated, possibly with constants added."""
    REDUCE = "reduce"
    """One element for many elements of the first input, along axes."""
    OTHER = "other"


class Placement(enum.Enum):
    """The element types for which the bits of a result do not depend on the position of an element in its tensor.

    For some operators, ONNX Runtime computes the last few elements of a tensor with a different formula, or sums in an
    order that depends on the shape; moving elements then changes rounding.
    """

    ANY = "any"
    HALF_AND_SINGLE = "single"
    """float16 and float32."""
    INTEGER = "ints"
    UNKNOWN = "-"


class Trait(enum.Flag):
    """Properties that hold bit for bit, unless stated otherwise."""

    NONE = 0
    COMMUTATIVE = enum.auto()
    """The operands can be swapped."""
    SYMMETRIC = enum.auto()
    """The operands can be swapped, except for NaN and the sign of zeros."""
    IDEMPOTENT = enum.auto()
    """Applied to its own result, it returns that result."""
    INVOLUTION = enum.auto()
    """Applied to its own result, it returns the original operand."""
    TRIVIAL = enum.auto()
    """With a single input, or without axes to reduce, it returns that input."""
    NONNEGATIVE = enum.auto()
    """The result is never below zero, though it may be NaN (or, from Abs, the smallest integer)."""
    PREDICATE = enum.auto()
    """The result is boolean."""
    RANDOM = enum.auto()
    """The result differs each time."""
    RANDOM_IN_TRAINING = enum.auto()
    """The result differs each time in training mode."""
    DATA_SIZED = enum.auto()
    """The shape of the result is data-dependent: it depends on elements of inputs that are not shape arguments."""
    VARIADIC = enum.auto()
    """All inputs have the role of the first one."""
    KEEPS_SCALE = enum.auto()
    """Each element of the first output is one of the first input, so that quantized, both have one scale.

    Which one it is does not change if all elements are mapped by one increasing function.
    """
    JOINS_SCALES = enum.auto()
    """It combines several tensors of data, for which runtimes have kernels on integers of different scales."""
    AVERAGES = enum.auto()
    """Each element is a mean of elements of the first input: it needs a scale of its own, and saturates nowhere."""
    CUTS_RANGE = enum.auto()
    """It replaces numbers outside of a range by its ends, as saturation of integers does."""


class Role(enum.Enum):
    """What the elements of an input mean."""

    INDEX = "index"
    """Positions along an axis of another input."""
    SHAPE = "shape"
    """A shape, axes, sizes, counts: small integers that control how the data is processed."""
    MASK = "mask"
    """Zeros and ones, or booleans."""
    LENGTH = "length"
    """The number of valid elements along an axis of another input."""
    COMPARED = "compared"
    """A value that is tested for equality with the other operand."""
    SUBTRACTED = "subtracted"
    NONZERO = "nonzero"
    POSITIVE = "positive"
    UNIT = "unit"
    """Numbers within (-1, 1)."""


@dataclass(frozen=True)
class OperatorFacts:
    """The known facts about one operator."""

    kind: Kind = Kind.OTHER
    flops: int | None = None
    """Arithmetic operations per element of the result, or of the first input; None if not constant."""
    flops_of_input: bool = False
    placement: Placement = Placement.UNKNOWN
    traits: Trait = Trait.NONE
    roles: Mapping[int, Role] = field(default_factory=dict)

    @property
    def is_elementwise(self) -> bool:
        """Return whether each element of the result depends on one element of each input."""
        return self.kind in (Kind.COPY, Kind.UNARY, Kind.BROADCAST)

    @property
    def keeps_shape(self) -> bool:
        """Return whether the first output has the shape of the first input."""
        return self.kind in (Kind.COPY, Kind.UNARY, Kind.SAME_SHAPE)

    @property
    def keeps_values(self) -> bool:
        """Return whether it only moves data: the result consists of elements of its data inputs, in any arrangement."""
        return self.kind in (Kind.COPY, Kind.VIEW, Kind.ARRANGE)

    def is_data(self, index: int) -> bool:
        """Return whether input `index` is data, and not an argument that controls the operator."""
        return index == 0 or (Trait.VARIADIC in self.traits and index not in self.roles)


NOTHING_KNOWN = OperatorFacts()


def facts_of(op: str) -> OperatorFacts:
    """The facts of an operator, named as by `Node.op`."""
    return FACTS.get(op, NOTHING_KNOWN)


def operators(*kinds: Kind, traits: Trait = Trait.NONE, placement: Placement | None = None) -> frozenset[str]:
    """Return the operators of any of these kinds (default: of all kinds) with all these traits and this placement."""
    return frozenset(
        op
        for op, facts in FACTS.items()
        if (not kinds or facts.kind in kinds)
        and traits in facts.traits
        and (placement is None or facts.placement is placement)
    )


def _parsed(line: str) -> tuple[str, OperatorFacts]:
    """Parse one line of the table. Raises ValueError for an unknown word."""
    op, kind, flops, placement, *words = line.split()
    traits = Trait.NONE
    roles: dict[int, Role] = {}
    for word in words:
        places, colon, role = word.partition(":")
        if colon:
            roles |= {int(place): Role(role) for place in places.split(",")}
        else:
            traits |= Trait[word.upper().replace("-", "_")]
    number = flops.removesuffix("in").removesuffix("out")
    facts = OperatorFacts(
        kind=Kind(kind),
        flops=None if flops == "-" else int(number or 1),
        flops_of_input=flops.endswith("in"),
        placement=Placement(placement),
        traits=traits,
        roles=roles,
    )
    return op, facts


FACTS: Mapping[str, OperatorFacts] = dict(_parsed(line) for line in TABLE.splitlines() if line and line[0] != "#")
"""The facts by operator; the domain is part of the name if it is not ONNX's own, as in `graphopt::ToBlocked`."""
