"""What tests of quantizing passes share: random weights and samples, running a pipeline, and the error it costs."""

from __future__ import annotations

import numpy as np

from graphopt.compression.evaluation import Evaluation
from graphopt.data.samples import Samples
from graphopt.ir import Model, Value, infer_shapes, verify
from graphopt.proof.oracle import Reference
from graphopt.rewriting.passes import Pass
from graphopt.rewriting.pipeline import PassManager, Pipeline
from graphopt.rewriting.report import Report
from tests.helpers import model_of

OPSET = '<ir_version: 10, opset_import: ["" : 21]>'
Feed = dict[str, np.ndarray]


def random(seed: int, **shapes: tuple[int, ...]) -> Feed:
    """Normally distributed arrays by name."""
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape, scale=0.3).astype(np.float32) for name, shape in shapes.items()}


def feeds(count: int, seed: int = 1, **shapes: tuple[int, ...]) -> list[Feed]:
    return [random(seed * 1000 + i, **shapes) for i in range(count)]


def network(nodes: str, weights: dict[str, tuple[int, ...]], data: tuple[int, ...]) -> Model:
    """A model that computes Y, of the rank of its data X, with random weights of these shapes."""
    dims, result = ",".join(map(str, data)), ",".join("ABCD"[: len(data)])
    text = f"{OPSET} g (float[{dims}] X) => (float[{result}] Y) {{ {nodes} }}"
    return model_of(text, random(0, **weights))


def run(model: Model, passes: str | Pass, samples: list[Feed] | None = None) -> tuple[Model, Report]:
    """A copy of a model after a pipeline, which is valid and keeps the types of its outputs."""
    changed = model.copy()
    infer_shapes(changed)
    types = [v.type for v in changed.graph.outputs]
    pipeline = Pipeline.parse(passes) if isinstance(passes, str) else Pipeline.of(passes)
    evaluation = Evaluation(samples=None if samples is None else Samples(samples, model), original=model)
    report = PassManager(pipeline, evaluation=evaluation).run(changed)
    verify(changed)
    assert [v.type for v in changed.graph.outputs] == types
    return changed, report


def noise(model: Model, changed: Model, samples: list[Feed], optimize: bool = False) -> float:
    """The error of the results relative to their size (root mean square)."""
    with Reference(model) as before, Reference(changed, optimize=optimize) as after:
        pairs = [(before.run(feed), after.run(feed)) for feed in samples]
    wanted = np.concatenate([np.asarray(v).ravel() for b, _ in pairs for v in b.values()]).astype(np.float64)
    found = np.concatenate([np.asarray(v).ravel() for _, a in pairs for v in a.values()]).astype(np.float64)
    return float(np.sqrt(np.square(found - wanted).mean() / np.square(wanted).mean()))


def array(value: Value | None) -> np.ndarray:
    """The contents of a constant."""
    assert value is not None
    assert value.constant is not None
    return value.constant.numpy()
