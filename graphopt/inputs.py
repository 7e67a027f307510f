"""Inputs for a model: the user's, or generated ones that respect what each input means.

Symbolic sizes are chosen once for each name. Several choices are tried until ONNX Runtime accepts one,
because a model does not say, for instance, that its pictures must be a multiple of 32 high.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from .errors import InputError
from .fill import Mood, fill
from .ir import Dim, DType, Model, OpaqueType, Shape, TensorType, Value
from .meaning import meaning_of
from .npz import read_npz
from .reference import OracleError, Reference
from .tolerance import Comparison, Output, Tolerance, compare


@dataclass(frozen=True)
class Sample:
    """Inputs that the model takes, and what the oracle computes for them."""

    inputs: dict[str, Any]
    outputs: dict[str, Output]

    @property
    def worth(self) -> tuple[bool, bool]:
        """Whether all outputs are finite, and whether none of several numbers is all the same number."""
        arrays = [output for output in self.outputs.values() if isinstance(output, np.ndarray)]
        finite = all(_is_finite(output) for output in self.outputs.values())
        return finite, all(a.dtype.kind != "f" or a.size < 2 or bool((a != a.flat[0]).any()) for a in arrays)


_BEST = (True, True)


def generate(
    model: Model,
    *,
    seed: int = 0,
    shapes: Mapping[str, Sequence[int]] | None = None,
    given: Mapping[str, Any] | None = None,
    reference: Reference | None = None,
) -> Sample:
    """Inputs that ONNX Runtime accepts, if possible such that outputs are finite and vary; the same for the same seed.

    `shapes` fixes the shape of inputs by name, `given` their contents; `reference` is the model in the
    oracle, if it is there already. Raises InputError if `shapes` or `given` do not fit the model, or if no
    choice of sizes is accepted.
    """
    if reference is None:
        with Reference(model) as reference:
            return generate(model, seed=seed, shapes=shapes, given=given, reference=reference)
    failure: OracleError | None = None
    for moods in candidates(model, seed=seed, shapes=shapes, given=given):
        samples: list[Sample] = []
        for inputs in moods:
            try:
                samples.append(Sample(inputs, reference.run(inputs)))
            except OracleError as error:
                failure = failure or error
                continue
            if samples[-1].worth == _BEST:
                break
        if samples:
            return max(samples, key=lambda sample: sample.worth)
    raise InputError(
        f"no generated inputs were accepted; the first failure: {failure.message if failure else 'none'}",
        where=model.name,
        remedy="fix the shapes (--input NAME:1x3x224x224) or give inputs (--inputs FILE.npz)",
    )


def compare_with_oracle(
    model: Model, sample: Sample, outputs: Mapping[str, Output], tolerance: Tolerance | None = None
) -> Comparison:
    """Compare the `outputs` that compiled code gave for a sample with ONNX Runtime's, where `model` is the original.

    With its own optimizations ONNX Runtime sums in another order. For some models and inputs its two answers differ by
    more than the tolerance (logarithms of long sums); then agreeing with either will do. See `compare`.
    """
    comparison = compare(sample.outputs, outputs, tolerance)
    if comparison.ok:
        return comparison
    with Reference(model, optimize=True) as reference:
        other = compare(reference.run(sample.inputs), outputs, tolerance)
    return other if other.ok else comparison


def candidates(
    model: Model,
    *,
    seed: int = 0,
    shapes: Mapping[str, Sequence[int]] | None = None,
    given: Mapping[str, Any] | None = None,
) -> Iterator[Iterator[dict[str, Any]]]:
    """Inputs worth trying: for each choice of sizes, likeliest first, one of each `Mood`.

    See `generate` for the arguments and errors.
    """
    values = {value.name: value for value in required_inputs(model)}
    given, shapes = dict(given or {}), dict(shapes or {})
    for name in (*given, *shapes):
        _check_name(model, values, name)
    for name, array in given.items():
        check_input(model, values[name], array)
    meanings = {name: meaning_of(value) for name, value in values.items()}
    plan = _Plan(model, values, {**shapes, **{n: a.shape for n, a in given.items() if hasattr(a, "shape")}})
    seen: set[tuple[int, ...]] = set()

    def make(choice: _Choice, sizes: Mapping[str, int], mood: Mood) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for index, (name, value) in enumerate(values.items()):
            rng = np.random.default_rng((seed, index))
            if name in given:
                made[name] = given[name]
            elif isinstance(value.type, OpaqueType):
                made[name] = _opaque(model, value, rng, choice)
            else:
                shape = plan.shape(value, sizes, choice)
                made[name] = fill(value, meanings[name], shape, rng, sizes, mood)
        return made

    for choice in _CHOICES:
        sizes = plan.sizes(choice)
        key = (*sizes.values(), *([choice.rank] if plan.ranks_unknown else []))
        if key not in seen:
            seen.add(key)
            yield map(functools.partial(make, choice, sizes), Mood)


def required_inputs(model: Model) -> list[Value]:
    """The inputs that a caller must give: those that are not initializers with a default."""
    return [value for value in model.graph.inputs if not value.is_initializer]


def load_npz(path: str | Path, model: Model) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, checked against the inputs of the model.

    Raises InputError if the file cannot be read, or a name, dtype or shape does not fit.
    """
    values = {value.name: value for value in required_inputs(model)}
    dtypes = {name: value.dtype.numpy for name, value in values.items() if value.dtype is not None}
    arrays = read_npz(Path(path), dtypes)
    for name, array in arrays.items():
        _check_name(model, values, name)
        check_input(model, values[name], array)
    return arrays


def check_input(model: Model, value: Value, array: Any) -> None:
    """Raise InputError unless the array has the dtype of the input and a shape that it allows."""
    if not isinstance(value.type, TensorType) or not isinstance(array, np.ndarray):
        return
    expected = value.type.dtype
    if array.dtype != expected.numpy and not (expected is DType.STRING and array.dtype.kind in "US"):
        raise InputError(
            f"input '{value.name}' has dtype {array.dtype}, and must have {expected.text}", where=model.name
        )
    _check_shape(model, value, array.shape)


def _check_shape(model: Model, value: Value, shape: Sequence[int]) -> None:
    declared = value.shape
    if declared is None:
        return
    fits = len(declared) == len(shape) and all(not isinstance(d, int) or d == s for d, s in zip(declared, shape))
    if not fits:
        text = "x".join(map(str, shape)) or "scalar"
        raise InputError(f"input '{value.name}' is {value.type}: it cannot have shape {text}", where=model.name)


def _check_name(model: Model, values: Mapping[str, Value], name: str) -> None:
    if name not in values:
        near = difflib.get_close_matches(name, values, 1)
        remedy = f"did you mean '{near[0]}'?" if near else f"its inputs: {', '.join(values) or 'none'}"
        raise InputError(f"the model has no input '{name}'", where=model.name, remedy=remedy)


def _is_finite(output: Output) -> bool:
    if isinstance(output, np.ndarray):
        return output.dtype.kind not in "fcV" or bool(np.isfinite(output).all())
    return not isinstance(output, list) or all(_is_finite(item) for item in output)


@dataclass(frozen=True)
class _Choice:
    """Sizes for the roles that a symbolic dimension may have; `rank` for inputs of unknown rank."""

    batch: int
    length: int
    height: int
    width: int
    rank: int = 2


_CHOICES = (
    _Choice(2, 12, 64, 64),
    _Choice(1, 12, 64, 64),
    _Choice(1, 16, 224, 224, rank=1),
    _Choice(1, 32, 48, 320, rank=3),
    _Choice(1, 512, 32, 32, rank=4),
    _Choice(1, 2, 128, 128, rank=0),
    _Choice(2, 2, 256, 256),
    _Choice(1, 1, 299, 299),
    _Choice(3, 3, 3, 3),
    _Choice(1, 128, 384, 384),
    _Choice(1, 16000, 512, 512),
    _Choice(1, 1, 1, 1),
)


@dataclass
class _Plan:
    """Which role each symbolic dimension of the inputs has, and the sizes that the user has fixed."""

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
        """Whether an input may have any rank, so that the rank of a choice matters."""
        return any(value.shape is None for value in self.values.values())

    def _bind(self, value: Value, shape: Sequence[int]) -> None:
        _check_shape(self.model, value, shape)
        for axis, (dim, size) in enumerate(zip(value.shape or (), shape)):
            # A dimension without a name is bound by its own input only: it says nothing about the others.
            if isinstance(dim, str) and self.bound.setdefault(dim, size) != size:
                raise InputError(
                    f"input '{value.name}' makes '{dim}' {size}, and another input makes it {self.bound[dim]}",
                    where=self.model.name,
                    remedy="give equal sizes wherever the model uses the same name",
                )
            if dim is None:
                self.bound.setdefault(_symbol(dim, _role(value.shape or (), axis), axis), size)

    def sizes(self, choice: _Choice) -> dict[str, int]:
        """A size for every symbol."""
        sizes = {s: self.bound.get(s, getattr(choice, role)) for s, role in self.roles.items()}
        for symbol in sizes:
            if symbol not in self.bound and (total := _sum(symbol, sizes)) is not None:
                sizes[symbol] = total
        return sizes

    def shape(self, value: Value, sizes: Mapping[str, int], choice: _Choice) -> tuple[int, ...]:
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
    """The name under which a size is chosen: inputs with nameless sizes nearly always agree axis by axis."""
    if isinstance(dim, str):
        return dim
    return "?batch" if role == "batch" else f"?{role}{axis}"


def _role(shape: Shape, axis: int) -> str:
    """What a dimension most likely is, judged by where it stands; channels last are recognized by their number."""
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
    """The value of a size such as `past_length + 1`, if all its parts are known."""
    parts = [part.strip() for part in symbol.split("+")]
    if len(parts) < 2:
        return None
    numbers = [int(part) if part.isdecimal() else sizes.get(part) for part in parts]
    return None if None in numbers else sum(number for number in numbers if number is not None)


def _opaque(model: Model, value: Value, rng: np.random.Generator, choice: _Choice) -> Any:
    """Contents for a sequence (three tensors) or an optional (a full one)."""
    assert isinstance(value.type, OpaqueType)
    proto = onnx.TypeProto.FromString(value.type.proto)
    kind = proto.WhichOneof("value")
    repeat = 3 if kind == "sequence_type" else 1
    while kind in ("sequence_type", "optional_type"):
        proto = getattr(proto, kind).elem_type
        kind = proto.WhichOneof("value")
        repeat = 3 if kind == "sequence_type" else repeat
    if kind != "tensor_type":
        remedy = "check the model with other means: such inputs cannot be generated"
        raise InputError(f"input '{value.name}' is a {kind}", where=model.name, remedy=remedy)
    known = proto.tensor_type.HasField("shape")
    dims = [dim.dim_value or choice.length for dim in proto.tensor_type.shape.dim] if known else [choice.length]
    dtype = DType(proto.tensor_type.elem_type)
    arrays = [np.asarray(rng.standard_normal(dims) * 3).astype(dtype.numpy) for _ in range(repeat)]
    return arrays if repeat > 1 else arrays[0]
