"""Statistics that passes share: those of a file, and those that one pass collected and another asks for again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from graphopt.errors import InputError
from graphopt.ir import Model, Tensor
from graphopt.ir.write_proto import write_model

from .products import Moments
from .statistics import ActivationStatistics, collect

if TYPE_CHECKING:
    from graphopt.data.samples import Samples

ALL_KINDS = ("range", "moving", "histogram")
"""The kinds that any calibration of `quantize-static` can be made from."""


@dataclass
class StatisticsStore:
    """Statistics by the model they are of; those of several sample sets are merged.

    `loaded`: statistics of earlier runs, of the model in the same state: with the same weights, after the same passes.
    `keep_all`: collect all kinds, so that the saved statistics serve any calibration.
    `grams`: what passes found out last about what products sum, and a key that says of which products.
    """

    loaded: list[ActivationStatistics] = field(default_factory=list)
    keep_all: bool = False
    known: dict[str, list[ActivationStatistics]] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)
    grams: tuple[Hashable, list[Moments]] | None = None

    def __post_init__(self) -> None:
        for statistics in self.loaded:
            self.known.setdefault(statistics.model, []).append(statistics)

    def of(
        self,
        model: Model,
        samples: Samples | None,
        values: Iterable[str],
        kinds: Sequence[str],
        progress: Callable[[str, float], None] | None = None,
    ) -> ActivationStatistics:
        """Return statistics of these values, over the samples and those of what was loaded for this model.

        Only what is missing is collected. Raises InputError if something is missing and there are no samples, or as
        `collect` does.
        """
        names, digest = list(values), digest_of(model)
        self.asked.add(digest)
        sets = self.known.setdefault(digest, [])
        if samples is None and not sets:
            raise InputError("this pass needs samples", remedy=self._remedy())
        if samples is not None and not any(samples.digest in one.digest.split("+") for one in sets):
            sets.append(ActivationStatistics(digest=samples.digest, model=digest))
        result: ActivationStatistics | None = None
        for one in sets:
            self._complete(one, model, samples, names, kinds, progress)
            part = ActivationStatistics(
                {name: {kind: one.values[name][kind] for kind in kinds} for name in names},
                one.samples,
                one.runs,
                one.digest,
                digest,
            )
            if len(sets) == 1:
                return part
            if result is None:
                result = ActivationStatistics.from_json(part.to_json())  # merging changes it
            else:
                result.merge(part)
        assert result is not None
        return result

    def _complete(
        self,
        known: ActivationStatistics,
        model: Model,
        samples: Samples | None,
        names: Sequence[str],
        kinds: Sequence[str],
        progress: Callable[[str, float], None] | None,
    ) -> None:
        """Collect what is missing in statistics."""
        missing = [name for name in names if not set(kinds) <= known.values.get(name, {}).keys()]
        if not missing:
            return
        if samples is None or known.digest != samples.digest:
            raise InputError(
                f"the statistics have no {' and '.join(kinds)} of '{missing[0]}'",
                where=model.name,
                remedy="collect them again with --save-statistics, for the model and passes that they are used for",
            )
        wanted = ALL_KINDS if self.keep_all and set(kinds) <= set(ALL_KINDS) else kinds
        found = collect(model, samples, missing, wanted, progress=progress)
        for name, accumulators in found.values.items():
            known.values.setdefault(name, {}).update(accumulators)
        known.samples, known.runs = found.samples, known.runs + found.runs

    def _remedy(self) -> str:
        if self.loaded:
            return "the statistics are of another model, or of this one after other passes: give --calibration too"
        return "give --samples (in Python, samples=...)"

    @property
    def unused(self) -> bool:
        """Whether statistics were loaded that no pass has asked for: those of another model."""
        return bool(self.loaded) and not any(one.model in self.asked for one in self.loaded)

    def merged(self) -> ActivationStatistics:
        """Return the statistics of all sample sets of the model whose statistics were used first, for a file.

        Raises InputError if nothing was collected or loaded.
        """
        for sets in self.known.values():
            whole = [one for one in sets if one.values]
            if whole:
                names = set.intersection(*(set(one.values) for one in whole))
                result = _subset(whole[0], names)
                for one in whole[1:]:
                    result.merge(_subset(one, names))
                return result
        raise InputError("there are no statistics to save", remedy="the pipeline collects none: leave it out")


def _subset(statistics: ActivationStatistics, names: set[str]) -> ActivationStatistics:
    copy = ActivationStatistics.from_json(statistics.to_json())
    copy.values = {name: kinds for name, kinds in copy.values.items() if name in names}
    return copy


def load_statistics(paths: Sequence[Path]) -> list[ActivationStatistics]:
    """Return the statistics in files. Raises InputError for files that `ActivationStatistics.save` did not write."""
    return [ActivationStatistics.load(path) for path in paths]


def digest_of(model: Model) -> str:
    """Return the SHA-256 of what a model computes: nodes, names and weights, but no inferred types."""

    def write(tensor: Tensor, name: str) -> onnx.TensorProto:
        return onnx.TensorProto(name=name, data_type=int(tensor.dtype), dims=tensor.shape, doc_string=tensor.digest)

    proto = write_model(model, write)
    del proto.graph.value_info[:]
    return hashlib.sha256(proto.graph.SerializeToString(deterministic=True)).hexdigest()
