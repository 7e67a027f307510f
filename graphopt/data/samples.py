"""Sample sets: many inputs of a model, streamed from files, images or Python; and validation sets.

One sample is in memory at a time. A set can be iterated as often as needed, always in the same order.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.errors import InputError
from graphopt.ir import Model, Value
from graphopt.proof.metrics import LABELS

from .checking import check_input, check_name, optional_inputs, required_inputs
from .images import Preprocess, check_rule, image_feeds, is_pictures
from .sample_files import Feed, file_feeds

_LOG = logging.getLogger(__name__)

Source = Any
"""A path (.npz, .npy, a folder), a feed, an iterable of feeds, or a function that returns such an iterable."""


class Samples:
    """Feeds of one model: dictionaries of arrays by input name, each for one run.

    Arguments:
        source: a path of an .npz or .npy file or of a folder of such files or of images; one feed; an iterable of feeds
            that can be iterated repeatedly; or a function that returns an iterable. If the model has one input, an
            array may be used for a feed.
        model: the model that takes them.
        preprocess: the rule for images, and only for these.

    Raises InputError for a source that cannot be read.
    """

    def __init__(self, source: Source, model: Model, preprocess: Preprocess | str | None = None) -> None:
        self.model = model
        self.values = {value.name: value for value in required_inputs(model)}
        self._may_be_given = {**self.values, **{value.name: value for value in optional_inputs(model)}}
        self.path = Path(source) if isinstance(source, str | Path) else None
        self.origin = str(self.path or "samples")
        self._open = _opener(source, model, self.values, preprocess)
        self._facts: _Facts | None = None

    def __iter__(self) -> Iterator[Feed]:
        """Each feed, its names, dtypes and shapes checked. Raises InputError that names the sample."""
        for number, feed in enumerate(self._open()):
            yield self._checked(feed, number)

    @property
    def count(self) -> int:
        """How many there are; the first time they are gone through for it."""
        return self._gathered().count

    @property
    def digest(self) -> str:
        """The SHA-256 of all feeds, in hexadecimal: the same for the same numbers, from whatever source."""
        return self._gathered().digest

    def first(self, count: int, limit: int = 1 << 28) -> list[Feed]:
        """Return the first feeds, at most `count`, and at most `limit` bytes of them (but always one)."""
        taken: list[Feed] = []
        room = limit
        for feed in itertools.islice(self, count):
            room -= sum(getattr(array, "nbytes", 0) for array in feed.values())
            if taken and room < 0:
                break
            taken.append(feed)
        return taken

    def check(self) -> list[str]:
        """Go through all samples and return anything suspicious about them: channels that never change.

        Raises InputError if there are none, or if one does not fit the model or contains a NaN.
        """
        return self._gathered().warnings()

    def _checked(self, feed: Any, number: int) -> Feed:
        if not isinstance(feed, Mapping):
            if len(self.values) != 1:
                raise InputError(
                    f"sample {number} is not a dictionary of arrays by name",
                    where=self.origin,
                    remedy=f"the model has the inputs {', '.join(self.values)}",
                )
            feed = {next(iter(self.values)): feed}
        try:
            for name, array in feed.items():
                check_name(self.model, self._may_be_given, name)
                check_input(self.model, self._may_be_given[name], array)
            missing = [name for name in self.values if name not in feed]
            if missing:
                raise InputError(f"input '{missing[0]}' is missing", where=self.model.name)
        except InputError as error:
            error.where = f"{self.origin}, sample {number}"
            raise
        return dict(feed)

    def _gathered(self) -> _Facts:
        if self._facts is None:
            facts = _Facts(self.values, self.origin)
            for feed in self:
                facts.add(feed)
            if facts.count == 0:
                raise InputError("there are no samples", where=self.origin, remedy="provide at least one")
            self._facts = facts
        return self._facts


class _Facts:
    """Facts about a sample set, collected in one pass over it."""

    def __init__(self, values: Mapping[str, Value], origin: str) -> None:
        self.values = values
        self.origin = origin
        self.count = 0
        self._hash = hashlib.sha256()
        self._channels: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    def add(self, feed: Feed) -> None:
        for name in sorted(feed):
            array = feed[name]
            if not isinstance(array, np.ndarray):
                continue
            self._hash.update(f"{name} {array.dtype} {array.shape}".encode())
            self._hash.update(repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes())
            self._count_array(name, array)
        self.count += 1

    def _count_array(self, name: str, array: np.ndarray) -> None:
        if array.dtype.kind not in "fV" or array.size == 0:
            return
        plain = array.astype(np.float32) if array.dtype.itemsize < 4 else array
        if np.isnan(plain).any():
            raise InputError(
                f"input '{name}' of sample {self.count} contains a NaN",
                where=self.origin,
                remedy="remove the sample, or fix how it is generated",
            )
        if array.ndim < 3:
            return
        axes = tuple(axis for axis in range(array.ndim) if axis != 1)
        low, high = plain.min(axes), plain.max(axes)
        known = self._channels.get(name)
        if known is not None and known[0].shape == low.shape:
            low, high = np.minimum(low, known[0]), np.maximum(high, known[1])
        self._channels[name] = low, high

    def warnings(self) -> list[str]:
        found = []
        for name, (low, high) in self._channels.items():
            dead = np.flatnonzero(low == high)
            if dead.size:
                some = ", ".join(map(str, dead[:8])) + (", ..." if dead.size > 8 else "")
                found.append(f"channels {some} of input '{name}' are constant in all {self.count} samples")
        return found


@dataclass(frozen=True)
class ValidationCase:
    """One sample of a validation set: its inputs and its expected results (None where unknown)."""

    inputs: Feed
    expected: Mapping[str, np.ndarray] | None = None


class Validation:
    """Samples with expected results: arrays by output name, or `labels`.

    `source` is as for `Samples`, with the expected results among the arrays of each feed; a folder of images has them
    in a file `labels.txt`, with the name of an image and its class on each line. Raises InputError as `Samples` does.
    """

    def __init__(self, source: Source, model: Model, preprocess: Preprocess | str | None = None) -> None:
        self.model = model
        inputs = {value.name: value for value in required_inputs(model)}
        outputs = {value.name for value in model.graph.outputs}
        self.answers = {name for name in (LABELS, *outputs) if name not in inputs}
        self._raw = _opener(source, model, inputs, preprocess, frozenset(self.answers))
        self.samples = Samples(lambda: (_split(feed, self.answers)[0] for feed in self._raw()), model)
        self.path = Path(source) if isinstance(source, str | Path) else None
        self.samples.origin = str(self.path or "validation set")

    def __iter__(self) -> Iterator[ValidationCase]:
        for number, feed in enumerate(self._raw()):
            inputs, answers = _split(feed, self.answers)
            if not answers:
                raise InputError(
                    f"sample {number} has no expected results",
                    where=self.samples.origin,
                    remedy=f"add an array named {' or '.join(sorted(self.answers))}",
                )
            yield ValidationCase(self.samples._checked(inputs, number), answers)

    @property
    def count(self) -> int:
        """How many there are."""
        return self.samples.count

    @property
    def digest(self) -> str:
        """The SHA-256 of all feeds and answers, in hexadecimal."""
        digest = hashlib.sha256(self.samples.digest.encode())
        for case in self:
            for name, array in sorted((case.expected or {}).items()):
                digest.update(f"{name} {array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def _split(feed: Any, answers: set[str]) -> tuple[Any, dict[str, np.ndarray]]:
    if not isinstance(feed, Mapping):
        return feed, {}
    inputs = {name: array for name, array in feed.items() if name not in answers}
    return inputs, {name: np.asarray(array) for name, array in feed.items() if name in answers}


def open_samples(source: Source, model: Model, preprocess: Preprocess | str | None = None) -> Samples:
    """Return a checked set; warnings are logged. Raises InputError for samples that do not fit the model."""
    samples = source if isinstance(source, Samples) else Samples(source, model, preprocess)
    for warning in samples.check():
        _LOG.warning("%s: %s", samples.origin, warning)
    return samples


def open_validation(source: Source, model: Model, preprocess: Preprocess | str | None = None) -> Validation:
    """Return a checked validation set. Raises InputError if samples do not fit or lack expected results."""
    validation = source if isinstance(source, Validation) else Validation(source, model, preprocess)
    validation.samples.check()
    next(iter(validation))
    return validation


def _opener(
    source: Source,
    model: Model,
    values: Mapping[str, Value],
    preprocess: Preprocess | str | None,
    extra: frozenset[str] = frozenset(),
) -> Callable[[], Iterable[Any]]:
    """Return a function that starts reading the source from the beginning."""
    if isinstance(source, str | Path):
        path = Path(source)
        if is_pictures(path):
            return image_feeds(path, model, values, preprocess)
        check_rule(preprocess, [path])
        return file_feeds(path, model, values, extra)
    check_rule(preprocess, [source])
    if callable(source):
        made: Callable[[], Iterable[Any]] = source
        return made
    if isinstance(source, Mapping | np.ndarray):
        return lambda: [source]
    if isinstance(source, Iterator):
        raise InputError(
            "these samples can be iterated only once, but are needed several times",
            remedy="pass a list, or a function that returns an iterator",
        )
    if isinstance(source, Iterable):
        return lambda: source
    raise InputError(f"samples cannot be read from a {type(source).__name__}", remedy="pass a path or an iterable")
