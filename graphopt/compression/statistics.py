"""Activation statistics: what a model computes while it runs on samples, collected in bounded memory.

ONNX Runtime runs the model with the requested values as outputs. If they do not all fit into the memory limit, they are
divided among as few runs over the samples as possible.
"""

from __future__ import annotations

import json
import math
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.errors import InputError
from graphopt.hardware import processor
from graphopt.ir import Model, TensorType, Value, infer_shapes
from graphopt.proof.oracle import Reference
from graphopt.rewriting.rewriter import Rewriter
from graphopt.rewriting.shapes import fix_shapes
from graphopt.util.files import replacing

from .accumulators import KINDS, Accumulator, Numbers

if TYPE_CHECKING:
    from graphopt.data.sample_files import Feed
    from graphopt.data.samples import Samples

DEFAULT_MEMORY = 1 << 29
Progress = Callable[[str, float], None]
_FORM = 3


@dataclass
class ActivationStatistics:
    """The accumulators of each value by kind, `values["relu_3"]["range"]`, from `runs` runs over `samples` samples.

    `digest` is that of the samples; merging the statistics of two sets keeps both. `model` is that of the model, see
    `graphopt.compression.store.digest_of`.
    """

    values: dict[str, dict[str, Accumulator]] = field(default_factory=dict)
    samples: int = 0
    runs: int = 0
    digest: str = ""
    model: str = ""

    def merge(self, other: ActivationStatistics) -> None:
        """Add statistics of other samples. Raises InputError if they are of other values or kinds."""
        mine, others = ({name: set(kinds) for name, kinds in s.values.items()} for s in (self, other))
        if mine != others or self.model != other.model:
            raise InputError(
                "statistics of another model, or of other values or kinds, cannot be merged",
                remedy="collect the same of both",
            )
        for name, kinds in self.values.items():
            for kind, accumulator in kinds.items():
                accumulator.merge(other.values[name][kind])
        self.samples += other.samples
        self.digest = "+".join(filter(None, (self.digest, other.digest)))

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON types; infinities become None."""
        values = {
            name: {kind: {key: _plain(item) for key, item in a.state().items()} for kind, a in kinds.items()}
            for name, kinds in self.values.items()
        }
        facts = {"form": _FORM, "samples": self.samples, "runs": self.runs, "digest": self.digest, "model": self.model}
        return {**facts, "values": values}

    def save(self, path: Path) -> None:
        """Write a `.json` file, or a smaller `.npz` file. Raises OSError where that is impossible."""
        facts = self.to_json()
        with replacing(path) as file:
            if path.suffix == ".json":
                file.write(json.dumps(facts).encode())
            else:
                np.savez_compressed(file, statistics=np.frombuffer(json.dumps(facts).encode(), np.uint8))

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> ActivationStatistics:
        """Return what `to_json` was called on. Raises ValueError, KeyError or TypeError for anything else."""
        if facts["form"] != _FORM:
            raise ValueError(f"form {facts['form']}")
        values = {
            name: {kind: KINDS[kind].of(_restored(kind, state)) for kind, state in kinds.items()}
            for name, kinds in facts["values"].items()
        }
        return cls(values, int(facts["samples"]), int(facts["runs"]), str(facts["digest"]), str(facts["model"]))

    @classmethod
    def load(cls, path: Path) -> ActivationStatistics:
        """Return statistics that `save` wrote. Raises InputError for any other file."""
        try:
            if path.suffix == ".json":
                facts = json.loads(path.read_text(encoding="utf-8"))
            else:
                with np.load(path, allow_pickle=False) as archive:
                    facts = json.loads(archive["statistics"].tobytes())
            return cls.from_json(facts)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
            raise InputError(
                f"cannot be read as activation statistics ({error})",
                where=str(path),
                remedy="collect them: graphopt stats MODEL.onnx --samples DATA -o FILE.npz",
            ) from error


def _plain(item: Any) -> Any:
    if isinstance(item, np.ndarray):
        return [_plain(part) for part in item.tolist()]
    return None if isinstance(item, float) and not math.isfinite(item) else item


def _restored(kind: str, state: dict[str, Any]) -> dict[str, Any]:
    """Restore the infinities of a range that has seen nothing, which are stored as None."""
    empty = {"low": math.inf, "high": -math.inf}
    return {
        key: [empty[key] if part is None else part for part in item]
        if isinstance(item, list) and key in empty
        else empty[key]
        if item is None
        else item
        for key, item in state.items()
    }


def collect(
    model: Model,
    samples: Samples,
    values: Iterable[str] | None = None,
    kinds: Sequence[str] = ("range", "moments", "histogram"),
    *,
    memory: int = DEFAULT_MEMORY,
    progress: Progress | None = None,
) -> ActivationStatistics:
    """Run a model over samples and collect statistics of its activations.

    Arguments:
        model: is not changed.
        samples: one of them is in memory at a time.
        values: names, or patterns such as `*relu*`; None: every floating-point input and output of a node of the main
            graph, except constants.
        kinds: of `graphopt.compression.accumulators.KINDS`.
        memory: the bytes that the values of one run may take (a single value is always accepted).
        progress: is called with the current activity and the completed share (0 to 1).

    Raises InputError for unknown names and kinds, and for samples that do not fit.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise InputError(f"there are no statistics of kind '{kind}'", remedy=f"the kinds are: {', '.join(KINDS)}")
    model = model.copy()
    infer_shapes(model)
    wanted = _wanted(model, values)
    found = ActivationStatistics(
        {value.name: {kind: KINDS[kind]() for kind in kinds} for value in wanted}, digest=samples.digest
    )
    groups = groups_within([value.name for value in wanted], sizes_of(model, samples), memory)
    tell = progress or (lambda what, done: None)
    for number, names in enumerate(groups):
        found.samples = 0
        for outputs in observe(model, names, samples):
            done = (number + found.samples / samples.count) / len(groups)
            tell(f"run {number + 1} of {len(groups)}, sample {found.samples + 1}", done)
            for name, array in outputs.items():
                numbers = Numbers.of(array)
                for accumulator in found.values[name].values():
                    accumulator.see(numbers)
            found.samples += 1
    found.runs = len(groups)
    return found


def _wanted(model: Model, names: Iterable[str] | None) -> list[Value]:
    graph = model.graph
    known = [value for value in graph.inputs if not value.is_initializer]
    known += [value for node in graph.nodes if node.op != "Constant" for value in node.outputs if value.name]
    floats = [v for v in known if isinstance(v.type, TensorType) and v.type.dtype.is_float]
    if names is None:
        return floats
    patterns = {name: re.compile(re.escape(name).replace(r"\*", ".*").replace(r"\?", ".")) for name in names}
    chosen = [v for v in floats if any(pattern.fullmatch(v.name) for pattern in patterns.values())]
    for name, pattern in patterns.items():
        if not any(pattern.fullmatch(value.name) for value in chosen):
            raise InputError(
                f"the model computes no floating-point value '{name}'",
                where=model.name,
                remedy="graphopt stats without --value lists them; --value takes patterns such as '*relu*'",
            )
    return chosen


def sizes_of(model: Model, samples: Samples) -> dict[str, int]:
    """Return the bytes of each value for the first sample; what inference cannot determine counts as the largest."""
    copy = model.copy()
    feed = samples.first(1)[0]
    fix_shapes(copy, {name: array.shape for name, array in feed.items() if isinstance(array, np.ndarray)})
    known: dict[str, int] = {}
    unknown = []
    for value in copy.graph.values():
        shape, dtype = value.shape, value.dtype
        if shape is None or dtype is None or not all(isinstance(dim, int) for dim in shape):
            unknown.append(value.name)
        else:
            known[value.name] = math.prod(dim for dim in shape if isinstance(dim, int)) * max(dtype.bits // 8, 1)
    largest = max((known[v.name] for n in copy.graph.nodes for v in n.outputs if v.name in known), default=1)
    return {**known, **dict.fromkeys(unknown, largest)}


def groups_within(values: Sequence[str], sizes: Mapping[str, int], memory: int) -> list[list[str]]:
    """Divide values into groups whose bytes fit into the memory limit: first fit, the largest first."""
    groups: list[tuple[int, list[str]]] = []
    for name in sorted(values, key=lambda name: -sizes[name]):
        size = sizes[name]
        place = next((i for i, (used, _) in enumerate(groups) if used + size <= memory), None)
        if place is None:
            groups.append((size, [name]))
        else:
            used, names = groups[place]
            groups[place] = (used + size, [*names, name])
    return [names for _, names in groups]


def observe(model: Model, names: Sequence[str], samples: Iterable[Feed]) -> Iterator[dict[str, np.ndarray]]:
    """Yield the values with these names for each sample, all of them in memory; the model is not changed.

    Inputs are taken from the sample itself.
    """
    inputs = {value.name for value in model.graph.inputs}
    made = [name for name in names if name not in inputs]
    taken = [name for name in names if name in inputs]

    def from_feed(feed: Feed) -> dict[str, np.ndarray]:
        return {name: feed[name] for name in taken}

    if not made:
        yield from (from_feed(feed) for feed in samples)
        return
    copy = model.copy()
    found = [copy.graph.find(name) for name in made]
    Rewriter(copy.graph).set_outputs([value for value in found if value is not None])
    with Reference(copy, threads=processor.cores()) as reference:
        for feed in samples:
            yield {**from_feed(feed), **reference.run(feed)}
