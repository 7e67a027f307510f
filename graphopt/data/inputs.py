"""Inputs for a model: the user's, or generated ones that respect what each input means.

Symbolic sizes are chosen once for each name. Several choices are tried until ONNX Runtime accepts one,
because a model does not say, for instance, that its pictures must be a multiple of 32 high.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from graphopt.errors import InputError
from graphopt.ir import DType, Model, OpaqueType, TensorType, Value
from graphopt.proof.oracle import OracleError, Reference
from graphopt.proof.tolerance import Comparison, Output, Tolerance, compare

from .fill import Mood, fill
from .meaning import meaning_of
from .npz import read_npz
from .sizes import CHOICES, Choice, Plan, check_shape


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


def verification_samples(
    model: Model,
    *,
    seed: int = 0,
    shapes: Mapping[str, Sequence[int]] | None = None,
    given: Mapping[str, Any] | None = None,
    reference: Reference | None = None,
) -> list[Sample]:
    """The inputs that a model is verified on. See `generate` for the arguments and errors."""
    return [generate(model, seed=seed, shapes=shapes, given=given, reference=reference)]


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
        check_name(model, values, name)
    for name, array in given.items():
        check_input(model, values[name], array)
    meanings = {name: meaning_of(value) for name, value in values.items()}
    plan = Plan(model, values, {**shapes, **{n: a.shape for n, a in given.items() if hasattr(a, "shape")}})
    seen: set[tuple[int, ...]] = set()

    def make(choice: Choice, sizes: Mapping[str, int], mood: Mood) -> dict[str, Any]:
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

    for choice in CHOICES:
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
        check_name(model, values, name)
        check_input(model, values[name], array)
    return arrays


def check_input(model: Model, value: Value, array: Any) -> None:
    """Raise InputError unless the array has the dtype of the input and a shape that it allows."""
    if not isinstance(value.type, TensorType) or not isinstance(array, np.ndarray):
        return
    expected = value.type.dtype
    if array.dtype != expected.numpy and not (expected is DType.STRING and array.dtype.kind in "US"):
        raise InputError(
            f"input '{value.name}' has dtype {array.dtype}, and must have {expected.text}",
            where=model.name,
            remedy=f"convert it first: array.astype('{expected.text}')",
        )
    check_shape(model, value, array.shape)


def check_name(model: Model, values: Mapping[str, Value], name: str) -> None:
    if name not in values:
        near = difflib.get_close_matches(name, values, 1)
        remedy = f"did you mean '{near[0]}'?" if near else f"its inputs: {', '.join(values) or 'none'}"
        raise InputError(f"the model has no input '{name}'", where=model.name, remedy=remedy)


def _is_finite(output: Output) -> bool:
    if isinstance(output, np.ndarray):
        return output.dtype.kind not in "fcV" or bool(np.isfinite(output).all())
    return not isinstance(output, list) or all(_is_finite(item) for item in output)


def _opaque(model: Model, value: Value, rng: np.random.Generator, choice: Choice) -> Any:
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
