"""Inputs for a model: the user's, or generated ones that respect what each input means.

Symbolic sizes are chosen once per name. Several choices are tried until ONNX Runtime accepts one, because a model does
not state, for example, that the height of its images must be a multiple of 32.
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
from graphopt.proof.standard import standard_of
from graphopt.proof.tolerance import Comparison, Output, Tolerance, compare

from .checking import check_input, check_name, required_inputs
from .fill import Mood
from .making import Maker
from .npz import read_npz
from .sizes import CHOICES, Choice
from .special import special_inputs, survives
from .undefined import is_defined


@dataclass(frozen=True)
class Sample:
    """Inputs that the model accepts, and the oracle's outputs for them."""

    inputs: dict[str, Any]
    outputs: dict[str, Output]

    @property
    def worth(self) -> tuple[bool, bool]:
        """Whether all outputs are finite, and whether no output of several elements is constant."""
        arrays = [output for output in self.outputs.values() if isinstance(output, np.ndarray)]
        finite = all(_is_finite(output) for output in self.outputs.values())
        return finite, all(a.dtype.kind != "f" or a.size < 2 or bool((a != a.flat[0]).any()) for a in arrays)


_BEST = (True, True)


class Judge(Protocol):
    """An object that runs a model on generated inputs, or raises OracleError if they do not fit."""

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
    """Return inputs that ONNX Runtime accepts and, if possible, for which outputs are finite and vary.

    They are the same for the same seed.

    Arguments:
        model: the model that takes them.
        seed: of the random numbers.
        shapes: of inputs, by name.
        given: contents of inputs, by name.
        reference: the model in the oracle, if it was loaded already.

    Raises InputError if `shapes` or `given` do not fit the model, or if no choice of sizes is accepted.
    """
    if reference is None:
        with Reference(model) as oracle:
            return generate(model, seed=seed, shapes=shapes, given=given, reference=oracle)
    maker = Maker(model, seed=seed, shapes=shapes, given=given)
    return _accepted(maker, reference)[0]


_PLAIN = 4
"""The number of choices to try before looking for relations among the sizes; later ones are larger."""


def _accepted(maker: Maker, reference: Judge) -> tuple[Sample, Choice, dict[str, int]]:
    """Return the first sample that the oracle accepts, with its choice of sizes; the maker keeps relations it finds.

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
        remedy="fix the shapes (--input NAME:1x3x224x224) or pass inputs (--inputs FILE.npz)",
    )


def _best(
    maker: Maker, choice: Choice, sizes: Mapping[str, int], reference: Judge, failures: list[OracleError]
) -> Sample | None:
    """Return the sample whose outputs are most informative among the moods that the oracle accepts."""
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
    """Find relations among the sizes with which the oracle accepts the inputs; return whether there are any."""
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
    """Return the inputs for verifying a model: usual ones first, then special ones that the oracle supports.

    See `generate` for the arguments and errors, and `special_inputs` for the special ones.
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
            if not wild or (survives(sample.outputs) and is_defined(model, inputs)):
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
    """Compare the `outputs` of compiled code for a sample with ONNX Runtime's outputs of the original `model`.

    With its own optimizations, ONNX Runtime sums in another order. For some models and inputs its two results differ by
    more than the tolerance (logarithms of long sums); then agreement with either one is enough. See `compare`; without
    a tolerance, that of `standard_of` the model holds.
    """
    tolerance = tolerance or standard_of(model)
    comparison = compare(sample.outputs, outputs, tolerance, empty=empty)
    if comparison.ok:
        return comparison
    with Reference(model, optimize=True) as reference:
        other = compare(reference.run(sample.inputs), outputs, tolerance, empty=empty)
    return other if other.ok else comparison


def load_npz(path: str | Path, model: Model) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz file, checked against the inputs of the model.

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
