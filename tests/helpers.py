"""Checks for tests of passes.

`check_pass(pass_, before, after, ...)` runs a pass on a small model and, whatever the test itself asks, always checks
that

- the result is structurally valid, and every graph output still has its name, dtype and shape;
- the numbers agree with ONNX Runtime's on generated inputs (an EXACT pass: to the bit, also with zeros of both signs,
  infinities and NaNs among them; a FLOAT pass: within 1e-5 of each output's largest value). Where a model computes
  with 16-bit floats, ONNX Runtime cannot show bits, and two roundings are allowed;
- a second run changes nothing (idempotence), and the version moved exactly if the graph changed;
- the caller's model and tensors are untouched;
- the pass prints as pipeline text and parses back to an equal pass.

`check_declines(pass_, before, reason)` checks that nothing was changed, and that the near miss was counted by that
reason.

Models are text in ONNX's syntax. Without a `<ir_version...>` header the newest opset (`OPSET`) is meant. Names that are
used but never defined must be given as keyword `weights`:

    check_pass(
        FuseMatmulAdd(),
        "g (float[N,3] X) => (float[N,4] Y) { t = MatMul(X, W)  Y = Add(t, b) }",
        "g (float[N,3] X) => (float[N,4] Y) { Y = Gemm(X, W, b) }",
        weights={"W": rng.normal(size=(3, 4)).astype(np.float32), "b": np.ones(4, np.float32)},
        counts={"rewritten": 1},
    )

In `after`, a name that is defined nowhere and is not in `weights` stands for any constant: `Conv(X, W2, b2)` says that
some weight and some bias are there, whose contents the numbers check.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.parser

from graphopt import io
from graphopt.data import inputs as generated
from graphopt.data.meaning import Kind, meaning_of
from graphopt.ir import Model, Tensor, TensorType, Value, infer_shapes, verify
from graphopt.proof.numerical import exact_standard
from graphopt.proof.oracle import Reference
from graphopt.proof.tolerance import Tolerance, compare
from graphopt.rewriting.passes import Fidelity, Pass, PassContext
from graphopt.rewriting.pipeline import Pipeline
from tests.isomorphism import assert_same

OPSET = 24
FLOAT_TOLERANCE = Tolerance.uniform(1e-5)

Weights = Mapping[str, np.ndarray]


def check_pass(
    pass_: Pass,
    before: str | Model,
    after: str | Model | None = None,
    *,
    counts: Mapping[str, int] | None = None,
    ops: Mapping[str, int] | None = None,
    inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    weights: Weights | None = None,
    tol: Tolerance | None = None,
    target: Any = None,
    changes: bool | None = None,
) -> Model:
    """Run a pass and check everything (see the top of this file); returns the rewritten model.

    `after`: the graph expected, up to the names of intermediate values. `counts`: statistics expected, by
    name; those not named are not looked at. `ops`: how often each operator must occur afterwards, all of
    them (`Constant` aside). `inputs`: one or several sets of inputs to check numbers with, besides the
    generated ones; `shapes`: shapes for the generated ones. `tol`: allowed error instead of the default of
    the pass's fidelity. `changes`: whether the pass must (not) have changed anything; by default it must
    have if `after`, `counts` or `ops` are given.
    """
    original = model_of(before, weights)
    infer_shapes(original)
    untouched = _fingerprint(original)
    model = original.copy()
    context = _run(pass_, model, target)
    if counts is not None:
        found = {name: context.counts.get(name, 0) for name in counts}
        assert found == dict(counts), f"counts are {dict(context.counts)}; misses: {dict(context.misses)}"
    changed = _content(model) != _content(original)
    expected = changes if changes is not None else any(x is not None for x in (after, counts, ops)) or None
    if expected is not None:
        assert changed == expected, f"changed is {changed}; misses: {dict(context.misses)}"
    if after is not None:
        after_model, wildcards = _expected_model(after, weights)
        assert_same(model, after_model, wildcards)
    if ops is not None:
        assert op_counts(model) == Counter(ops), f"operators are {dict(op_counts(model))}"
    check_interface(original, model)
    check_numbers(pass_, original, model, inputs, shapes, tol)
    check_idempotent(pass_, model, target)
    check_round_trip(pass_)
    assert _fingerprint(original) == untouched, "the pass changed the caller's model"
    return model


def check_declines(
    pass_: Pass,
    before: str | Model,
    reason: str = "",
    *,
    times: int | None = None,
    weights: Weights | None = None,
    target: Any = None,
) -> None:
    """Check that a pass leaves the model alone, and that it counted a near miss for `reason`, `times` times if given.

    Without a reason, the model must be no near miss at all: no reason may have been counted.
    """
    original = model_of(before, weights)
    infer_shapes(original)
    model = original.copy()
    context = _run(pass_, model, target)
    assert _content(model) == _content(original), f"the pass rewrote it: {dict(op_counts(model))}"
    if not reason:
        assert not context.misses, f"it was taken for a near miss: {dict(context.misses)}"
        return
    assert reason in context.misses, f"'{reason}' was not counted; misses: {dict(context.misses)}"
    if times is not None:
        assert context.misses[reason] == times
    check_round_trip(pass_)


def ops(model: Model) -> Counter[str]:
    """Count each operator, including nested graphs and functions, but without `Constant`."""
    roots = [model.graph, *(function.graph for function in model.functions.values())]
    return Counter(node.op for root in roots for node in root.all_nodes() if node.op != "Constant")


op_counts = ops  # `check_pass` has a parameter of that name


def model_of(text: str | Model, weights: Weights | None = None) -> Model:
    """The model that a text describes, with `weights` as initializers; a Model is copied."""
    if isinstance(text, Model):
        return text.copy()
    proto = parse_proto(text)
    known = _defined(proto.graph)
    for name, array in (weights or {}).items():
        if name not in known and name in _free_names(proto.graph, known):
            proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    return io.load(proto)


def parse_proto(text: str) -> onnx.ModelProto:
    """A text as a ModelProto; a text without header gets the newest opset."""
    if not text.lstrip().startswith("<"):
        text = f'<ir_version: 11, opset_import: ["" : {OPSET}]> {text}'
    return onnx.parser.parse_model(text)


def check_interface(before: Model, after: Model) -> None:
    """Check that both have the same inputs and outputs: names, dtypes, ranks and sizes as far as both are known."""
    for kind in ("inputs", "outputs"):
        left, right = getattr(before.graph, kind), getattr(after.graph, kind)
        assert [v.name for v in left] == [v.name for v in right], f"the {kind} changed"
        for old, new in zip(left, right):
            if not isinstance(old.type, TensorType):
                assert old.type == new.type, f"the type of '{old.name}' changed"
                continue
            assert new.dtype == old.dtype, f"'{new.name}' was {old.type} and is {new.type}"
            if old.shape is not None:
                assert new.shape is not None, f"the shape of '{new.name}' was lost"
                assert len(new.shape) == len(old.shape), f"'{new.name}' was {old.type} and is {new.type}"
                for a, b in zip(old.shape, new.shape):
                    assert not isinstance(a, int) or a == b, f"'{new.name}' was {old.type} and is {new.type}"


def check_numbers(
    pass_: Pass,
    before: Model,
    after: Model,
    inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    tol: Tolerance | None = None,
) -> None:
    """Check that both compute the same, as the fidelity of the pass promises (see the top of this file)."""
    exact = pass_.fidelity is Fidelity.EXACT
    if tol is None:
        assert pass_.fidelity is not Fidelity.LOSSY, "give a tolerance for a lossy pass"
        tol = exact_standard(before) if exact else FLOAT_TOLERANCE
    given = [inputs] if isinstance(inputs, Mapping) else list(inputs or ())
    with Reference(before) as reference, Reference(after) as rewritten:
        sample = generated.generate(before, shapes=shapes, reference=reference)
        sets = [*given, sample.inputs, *(_odd_inputs(before, sample.inputs) if exact else ())]
        for number, arrays in enumerate(sets):
            comparison = compare(reference.run(arrays), rewritten.run(arrays), tol)
            assert comparison.ok, f"inputs {number}: {comparison}"


def check_idempotent(pass_: Pass, model: Model, target: Any = None) -> None:
    """Check that running the pass on its own result changes nothing."""
    again = model.copy()
    context = _run(pass_, again, target)
    assert _content(again) == _content(model), f"a second run changed the graph again: {dict(context.counts)}"


def check_round_trip(pass_: Pass) -> None:
    """Check that a built-in pass prints as pipeline text and parses back; passes that tests define are not known."""
    if not type(pass_).__module__.startswith("graphopt.passes."):
        return
    parsed = Pipeline.parse(str(pass_))
    assert str(parsed) == str(pass_)
    assert parsed.passes == [pass_]


def _run(pass_: Pass, model: Model, target: Any) -> PassContext:
    """Run a pass; check the structure, and that the version moved exactly if the graph changed."""
    version, content = model.version, _content(model)
    context = PassContext(model, target)
    pass_.run(model.graph, context)
    if model.version == version:
        assert _content(model) == content, "the graph changed and its version did not"
    else:
        assert _content(model) != content, "the version moved and the graph is the same"
    verify(model)
    return context


def _content(model: Model) -> bytes:
    return io.to_proto(model).SerializeToString(deterministic=True)


def _tensors(model: Model) -> Iterator[Tensor]:
    roots = [model.graph, *(function.graph for function in model.functions.values())]
    for graph in (inner for root in roots for inner in root.all_graphs()):
        yield from (value.tensor for value in graph.initializers.values() if value.tensor is not None)
        for node in graph.nodes:
            yield from (a.value for a in node.attributes.values() if isinstance(a.value, Tensor))


def _fingerprint(model: Model) -> str:
    """A digest of the graph and of the bytes of its tensors, read anew (their cached digests would not notice)."""
    hasher = hashlib.sha256(_content(model))
    for tensor in _tensors(model):
        hasher.update(repr(tensor.numpy().tolist()).encode())
    return hasher.hexdigest()


def _odd_inputs(model: Model, sample: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The sample with special numbers strewn into float inputs that nothing restricts."""
    free = [
        value.name
        for value in generated.required_inputs(model)
        if isinstance(sample[value.name], np.ndarray)
        and value.dtype is not None
        and value.dtype.is_float
        and value.dtype.bits >= 16
        and meaning_of(value).kind is Kind.ANY
    ]
    if not free:
        return
    for specials in ([0.0, -0.0], [0.0, -0.0, np.inf, -np.inf, np.nan]):
        odd = dict(sample)
        for name in free:
            array = np.array(sample[name])
            flat = array.reshape(-1)
            chosen = np.random.default_rng(1).random(flat.size) < 0.4
            flat[chosen] = np.resize(np.asarray(specials).astype(array.dtype), int(chosen.sum()))
            odd[name] = array
        yield odd


def _defined(graph: onnx.GraphProto) -> set[str]:
    names = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    return names | {name for node in graph.node for name in node.output}


def _free_names(graph: onnx.GraphProto, outer: set[str]) -> set[str]:
    """The names that a graph, or one nested in it, uses and nobody defines."""
    known = outer | _defined(graph)
    free = {name for node in graph.node for name in node.input if name} - known
    free |= {value.name for value in graph.output} - known
    for node in graph.node:
        for attribute in node.attribute:
            for nested in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                free |= _free_names(nested, known)
    return free


def _expected_model(after: str | Model, weights: Weights | None) -> tuple[Model, frozenset[str]]:
    """The expected model, and the names in it that stand for any constant."""
    if isinstance(after, Model):
        return after, frozenset()
    proto = parse_proto(after)
    free = _free_names(proto.graph, set())
    for name in sorted(free):
        array = (weights or {}).get(name)
        stand_in = np.zeros((), np.float32) if array is None else np.asarray(array)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(stand_in, name))
    return io.load(proto), frozenset(free - set(weights or {}))


def value_named(model: Model, name: str) -> Value:
    """A value of the main graph by name."""
    value = model.graph.find(name)
    assert value is not None, f"there is no value '{name}'"
    return value
