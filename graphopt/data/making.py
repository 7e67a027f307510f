"""Candidate inputs: for each choice of sizes, most likely first, arrays of each mood."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from graphopt.errors import InputError
from graphopt.ir import DType, Model, OpaqueType, Value

from .checking import check_input, check_name, optional_inputs, required_inputs
from .fill import Mood, fill
from .meaning import meaning_of
from .relations import Relations, apply, different, guesses
from .sizes import CHOICES, Choice, Plan


class Maker:
    """Generates inputs of one model. `shapes` fixes the shape of inputs by name, `given` their contents.

    `relations` says which sizes depend on which others. Raises InputError if `shapes` or `given` do not fit the model.
    """

    def __init__(
        self,
        model: Model,
        *,
        seed: int = 0,
        shapes: Mapping[str, Sequence[int]] | None = None,
        given: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.seed = seed
        self.values = {value.name: value for value in required_inputs(model)}
        self.given, shapes = dict(given or {}), dict(shapes or {})
        may_be_given = {**self.values, **{value.name: value for value in optional_inputs(model)}}
        for name in shapes:
            check_name(model, self.values, name)
        for name, array in self.given.items():
            check_name(model, may_be_given, name)
            check_input(model, may_be_given[name], array)
        self.meanings = {name: meaning_of(value) for name, value in self.values.items()}
        shapes_given = {n: a.shape for n, a in self.given.items() if n in self.values and hasattr(a, "shape")}
        fixed = {**shapes, **shapes_given}
        self.plan = Plan(model, self.values, fixed)
        self.relations: Relations = {}

    @property
    def free(self) -> list[str]:
        """Return the symbolic sizes that neither the user nor a relation determines."""
        return [s for s in self.plan.roles if s not in self.plan.bound and s not in self.relations]

    def choices(self) -> Iterator[tuple[Choice, dict[str, int]]]:
        """Yield the choices with their sizes, equal ones only once."""
        seen: set[tuple[int, ...]] = set()
        for choice in CHOICES:
            sizes = apply(self.relations, self.plan.sizes(choice))
            key = (*sizes.values(), *([choice.rank] if self.plan.ranks_unknown else []))
            if key not in seen:
                seen.add(key)
                yield choice, sizes

    def guesses(self) -> Iterator[tuple[Relations, list[dict[str, int]]]]:
        """Yield possible relations among the sizes, each with small sizes that are otherwise all different."""
        symbols = sorted(self.free, key=lambda symbol: self.plan.roles[symbol] == "batch")
        usual = self.plan.sizes(CHOICES[0])
        for relations in guesses(symbols):
            yield relations, [apply(relations, {**usual, **small}) for small in different(symbols)]

    def related(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Return the sizes, with the dependent ones computed from the others."""
        return apply(self.relations, self.plan.summed(sizes))

    def make(self, choice: Choice, sizes: Mapping[str, int], mood: Mood = Mood.USUAL) -> dict[str, Any]:
        """Return one set of inputs, the same for the same seed."""
        made: dict[str, Any] = {name: array for name, array in self.given.items() if name not in self.values}
        for index, (name, value) in enumerate(self.values.items()):
            rng = np.random.default_rng((self.seed, index))
            if name in self.given:
                made[name] = self.given[name]
            elif isinstance(value.type, OpaqueType):
                made[name] = _opaque(self.model, value, rng, choice)
            else:
                shape = self.plan.shape(value, sizes, choice)
                made[name] = fill(value, self.meanings[name], shape, rng, sizes, mood)
        return made


def _opaque(model: Model, value: Value, rng: np.random.Generator, choice: Choice) -> Any:
    """Return contents for a sequence (three tensors) or an optional (one with a value)."""
    assert isinstance(value.type, OpaqueType)
    proto = onnx.TypeProto.FromString(value.type.proto)
    kind = proto.WhichOneof("value")
    repeat = 3 if kind == "sequence_type" else 1
    while kind in ("sequence_type", "optional_type"):
        proto = getattr(proto, kind).elem_type
        kind = proto.WhichOneof("value")
        repeat = 3 if kind == "sequence_type" else repeat
    if kind != "tensor_type":
        remedy = "such inputs cannot be generated: check the model by other means"
        raise InputError(f"input '{value.name}' is a {kind}", where=model.name, remedy=remedy)
    known = proto.tensor_type.HasField("shape")
    dims = [dim.dim_value or choice.length for dim in proto.tensor_type.shape.dim] if known else [choice.length]
    dtype = DType(proto.tensor_type.elem_type)
    arrays = [np.asarray(rng.standard_normal(dims) * 3).astype(dtype.numpy) for _ in range(repeat)]
    return arrays if repeat > 1 else arrays[0]
