"""Inputs for a model: the user's, or generated ones that respect what each input means.

Symbolic sizes are chosen once for each name. Several choices are tried until ONNX Runtime accepts one,
because a model does not say, for instance, that its pictures must be a multiple of 32 high.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from graphopt.errors import InputError
from graphopt.ir import Model
from graphopt.proof.oracle import OracleError, Reference
from graphopt.proof.tolerance import Comparison, Output, Tolerance, compare

from .checking import check_input, check_name, required_inputs
from .fill import Mood
from .making import Maker
from .npz import read_npz
from .sizes import CHOICES, Choice
from .special import special_inputs, survives


@dataclass(frozen=True)
class Sample:
    """Inputs that the model takes, and what the oracle computes for them."""

    inputs: dict[str, Any]
    outputs: dict[str, Output]

    @property
    def worth(self) -> tuple[bool, bool]:
        """Return whether all outputs are finite, and whether none of several numbers is all the same number."""
        arrays = [output for output in self.outputs.values() if isinstance(output, np.ndarray)]
        finite = all(_is_finite(output) for output in self.outputs.values())
        return finite, all(a.dtype.kind != "f" or a.size < 2 or bool((a != a.flat[0]).any()) for a in arrays)


_BEST = (True, True)


class Judge(Protocol):
    """What runs a model on generated inputs, or raises OracleError because they do not fit it."""

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Output]:
        """Return the outputs by name."""
        ...


def generate(
    model: Model,
    *,
    seed: int = 0,
    shapes: Mapping[str, Sequence[int]] | None = None,
    given: Mapping[str, Any] | None = None,
    reference: Judge | None = None,
) -> Sample:
    """Inputs that ONNX Runtime accepts, if possible such that outputs are finite and vary; the same for the same seed.

    `shapes` fixes the shape of inputs by name, `given` their contents; `reference` is the model in the
    oracle, if it is there already. Raises InputError if `shapes` or `given` do not fit the model, or if no
    choice of sizes is accepted.
    """
    if reference is None:
        with Reference(model) as oracle:
            return generate(model, seed=seed, shapes=shapes, given=given, reference=oracle)
    maker = Maker(model, seed=seed, shapes=shapes, given=given)
    return _accepted(maker, reference)[0]


_PLAIN = 4
"""Choices tried before relations among the sizes are looked for; those after them are larger, or stretch."""


def _accepted(maker: Maker, reference: Judge) -> tuple[Sample, Choice, dict[str, int]]:
    """The first sample that the oracle takes, and the choice of sizes that it is of; the maker keeps relations found.

    Raises InputError if none is accepted.
    """
    failures: list[OracleError] = []
    for index, (choice, sizes) in enumerate(maker.choices()):
        if index == _PLAIN and _relate(maker, reference):
            return _accepted(maker, reference)
        sample = _best(maker, choice, sizes, reference, failures)
        if sample is not None:
            return sample, choice, sizes
    raise InputError(
        f"no generated inputs were accepted; the first failure: {failures[0].message if failures else 'none'}",
        where=maker.model.name,
        remedy="fix the shapes (--input NAME:1x3x224x224) or give inputs (--inputs FILE.npz)",
    )


def _best(
    maker: Maker, choice: Choice, sizes: Mapping[str, int], reference: Judge, failures: list[OracleError]
) -> Sample | None:
    """Of the moods that the oracle takes, the one whose outputs tell most."""
    samples: list[Sample] = []
    for mood in Mood:
        inputs = maker.make(choice, sizes, mood)
        try:
            samples.append(Sample(inputs, reference.run(inputs)))
        except OracleError as error:
            failures.append(error)
            continue
        if samples[-1].worth == _BEST:
            break
    return max(samples, key=lambda sample: sample.worth, default=None)


def _relate(maker: Maker, reference: Judge) -> bool:
    """Find relations among the sizes with which the oracle takes the inputs; whether there are any."""
    if maker.relations:
        return False
    for relations, both in maker.guesses():
        try:
            for sizes in both:
                reference.run(maker.make(CHOICES[0], sizes))
        except OracleError:
            continue
        maker.relations = relations
        return True
    return False


def verification_samples(
    model: Model,
    *,
    seed: int = 0,
    shapes: Mapping[str, Sequence[int]] | None = None,
    given: Mapping[str, Any] | None = None,
    reference: Reference | None = None,
) -> list[Sample]:
    """The inputs that a model is verified on: usual ones first, then special ones that the oracle survives.

    See `generate` for the arguments and errors, and `special_inputs` for what is special.
    """
    if reference is None:
        with Reference(model) as reference:
            return verification_samples(model, seed=seed, shapes=shapes, given=given, reference=reference)
    maker = Maker(model, seed=seed, shapes=shapes, given=given)
    usual, choice, sizes = _accepted(maker, reference)
    found = [usual]
    for feeds, wild in special_inputs(maker, usual.inputs, choice, sizes):
        for inputs in feeds:
            try:
                sample = Sample(inputs, reference.run(inputs))
            except OracleError:
                continue
            if not wild or survives(sample.outputs):
                found.append(sample)
                break
    return found


def compare_with_oracle(
    model: Model,
    sample: Sample,
    outputs: Mapping[str, Output],
    tolerance: Tolerance | None = None,
    *,
    empty: bool = False,
) -> Comparison:
    """Compare the `outputs` that compiled code gave for a sample with ONNX Runtime's, where `model` is the original.

    With its own optimizations ONNX Runtime sums in another order. For some models and inputs its two answers differ by
    more than the tolerance (logarithms of long sums); then agreeing with either will do. See `compare`.
    """
    comparison = compare(sample.outputs, outputs, tolerance, empty=empty)
    if comparison.ok:
        return comparison
    with Reference(model, optimize=True) as reference:
        other = compare(reference.run(sample.inputs), outputs, tolerance, empty=empty)
    return other if other.ok else comparison


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


def _is_finite(output: Output) -> bool:
    if isinstance(output, np.ndarray):
        return output.dtype.kind not in "fcV" or bool(np.isfinite(output).all())
    return not isinstance(output, list) or all(_is_finite(item) for item in output)
