"""What each operator does, in one table that passes, analyses and generated inputs share.

What stands here is true of an operator whatever its attributes and element types, unless a column says otherwise. An
operator that is not listed is one of which nothing is known. The table is checked against ONNX's schemas and ONNX
Runtime's results by the tests.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from graphopt.ir.facts_table import TABLE


class Kind(enum.Enum):
    """How the elements of the first output come from those of the inputs."""

    COPY = "copy"
    """Each element of the first input in its place, perhaps in another type."""
    UNARY = "unary"
    """A function of one element of the first input; further inputs are scalars."""
    BROADCAST = "broadcast"
    """A function of one element of each input, the inputs broadcast against each other."""
    SAME_SHAPE = "same-shape"
    """The shape of the first input; elements may depend on each other."""
    VIEW = "view"
    """The elements of the first input in their order, in another shape."""
    ARRANGE = "arrange"
    """Elements of the data inputs: some of them, in some order, some more than once, among constants perhaps."""
    REDUCE = "reduce"
    """One element for many of the first input, along axes."""
    OTHER = "other"


class Placement(enum.Enum):
    """For which element types the bits of a result do not depend on where an element stands in its tensor.

    ONNX Runtime computes the last few elements of a tensor by another formula for some operators, and sums in an order
    that depends on the shape: moving elements then moves roundings.
    """

    ANY = "any"
    HALF_AND_SINGLE = "single"
    """float16 and float32."""
    INTEGER = "ints"
    UNKNOWN = "-"


class Trait(enum.Flag):
    """Properties that hold bit for bit, unless said otherwise."""

    NONE = 0
    COMMUTATIVE = enum.auto()
    """The operands may be exchanged."""
    SYMMETRIC = enum.auto()
    """The operands may be exchanged but for NaN and the sign of zeros."""
    IDEMPOTENT = enum.auto()
    """Applied to its own result it gives that result."""
    INVOLUTION = enum.auto()
    """Applied to its own result it gives back what it was applied to."""
    TRIVIAL = enum.auto()
    """Of a single input, or without axes to reduce, it is that input."""
    NONNEGATIVE = enum.auto()
    """The result is never below zero, though it may be NaN (or, from Abs, the smallest integer)."""
    PREDICATE = enum.auto()
    """The result is of booleans."""
    RANDOM = enum.auto()
    """It answers differently each time."""
    RANDOM_IN_TRAINING = enum.auto()
    """It answers differently each time if its training mode is on."""
    DATA_SIZED = enum.auto()
    """The shape of the result depends on the elements of inputs that are not shape arguments."""
    VARIADIC = enum.auto()
    """Every input is what the first one is."""


class Role(enum.Enum):
    """What the elements of an input stand for."""

    INDEX = "index"
    """Positions along an axis of another input."""
    SHAPE = "shape"
    """A shape, axes, sizes, counts: small integers that say how the data is treated."""
    MASK = "mask"
    """Zeros and ones, or booleans."""
    LENGTH = "length"
    """How many elements along an axis of another input are real."""
    COMPARED = "compared"
    """What is tested for equality with the other operand."""
    SUBTRACTED = "subtracted"
    NONZERO = "nonzero"
    POSITIVE = "positive"
    UNIT = "unit"
    """Numbers within (-1, 1)."""


@dataclass(frozen=True)
class OperatorFacts:
    """What is known of one operator."""

    kind: Kind = Kind.OTHER
    flops: int | None = None
    """Arithmetic operations for each element of the result, or of the first input; None where that is no constant."""
    flops_of_input: bool = False
    placement: Placement = Placement.UNKNOWN
    traits: Trait = Trait.NONE
    roles: Mapping[int, Role] = field(default_factory=dict)

    @property
    def is_elementwise(self) -> bool:
        """Whether each element of the result depends on one element of each input."""
        return self.kind in (Kind.COPY, Kind.UNARY, Kind.BROADCAST)

    @property
    def keeps_shape(self) -> bool:
        """Whether the first output has the shape of the first input."""
        return self.kind in (Kind.COPY, Kind.UNARY, Kind.SAME_SHAPE)

    @property
    def keeps_values(self) -> bool:
        """Whether it computes nothing: the result consists of elements of its data inputs, however arranged."""
        return self.kind in (Kind.COPY, Kind.VIEW, Kind.ARRANGE)

    def is_data(self, index: int) -> bool:
        """Whether input `index` is what the operator works on, and not an argument that says how."""
        return index == 0 or (Trait.VARIADIC in self.traits and index not in self.roles)


NOTHING_KNOWN = OperatorFacts()


def facts_of(op: str) -> OperatorFacts:
    """The facts of an operator, named as by `Node.op`."""
    return FACTS.get(op, NOTHING_KNOWN)


def operators(*kinds: Kind, traits: Trait = Trait.NONE, placement: Placement | None = None) -> frozenset[str]:
    """The operators of any of these kinds (or of whatever kind) that have all these traits, and this placement."""
    return frozenset(
        op
        for op, facts in FACTS.items()
        if (not kinds or facts.kind in kinds)
        and traits in facts.traits
        and (placement is None or facts.placement is placement)
    )


def _parsed(line: str) -> tuple[str, OperatorFacts]:
    """One line of the table. Raises ValueError for a word that means nothing."""
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
"""The facts by operator; operators outside of ONNX's own domain carry it, as in `graphopt::ToBlocked`."""
