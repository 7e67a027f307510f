import numpy as np

from graphopt import io
from graphopt.ir.text import parse
from graphopt.passes.cleanup.eliminate_dead import EliminateDead
from graphopt.rewriting.pipeline import PassManager, Pipeline
from tests.helpers import check_declines, check_pass


def test_nodes_that_lead_nowhere_and_their_weights():
    model = check_pass(
        EliminateDead(),
        """g (float[N] X) => (float[N] Y) <float w = {2}, float unused = {3}> {
            a = Exp(X) b = Mul(a, w) d = Neg(b) Y = Abs(X)
        }""",
        "g (float[N] X) => (float[N] Y) { Y = Abs(X) }",
        counts={"nodes": 3, "initializers": 2},
    )
    assert not model.graph.initializers


def test_outputs_in_the_middle_stay():
    check_declines(EliminateDead(), "g (float[N] X) => (float[N] A, float[N] Y) { A = Exp(X) Y = Abs(A) }")


def test_inputs_stay_with_their_defaults():
    check_declines(EliminateDead(), "g (float[N] X, float[2] W = {1, 2}) => (float[N] Y) { Y = Abs(X) }")


def test_a_capture_is_a_use():
    check_declines(
        EliminateDead(),
        """g (bool c, float[N] X) => (float[N] Y) <float w = {2}> {
            a = Exp(X)
            Y = If(c) <then_branch = t () => (float[N] p) { p = Mul(a, w) },
                       else_branch = e () => (float[N] q) { q = Abs(X) }>
        }""",
    )


def test_in_nested_graphs_and_then_what_only_they_captured():
    check_pass(
        EliminateDead(),
        """g (bool c, float[N] X) => (float[N] Y) <float w = {2}> {
            a = Exp(X)
            Y = If(c) <then_branch = t () => (float[N] p) <float v = {1}> { d = Mul(a, w) e = Add(d, v) p = Neg(X) },
                       else_branch = e () => (float[N] q) { q = Abs(X) }>
        }""",
        """g (bool c, float[N] X) => (float[N] Y) {
            Y = If(c) <then_branch = t () => (float[N] p) { p = Neg(X) },
                       else_branch = e () => (float[N] q) { q = Abs(X) }>
        }""",
        counts={"nodes": 3, "initializers": 2},
    )


def test_a_whole_dead_if_and_what_it_captured():
    check_pass(
        EliminateDead(),
        """g (bool c, float[N] X) => (float[N] Y) {
            a = Exp(X)
            z = If(c) <then_branch = t () => (float[N] p) { p = Neg(a) },
                       else_branch = e () => (float[N] q) { q = Abs(a) }>
            Y = Abs(X)
        }""",
        "g (bool c, float[N] X) => (float[N] Y) { Y = Abs(X) }",
        counts={"nodes": 2},
    )


def test_optional_outputs_that_nobody_uses():
    model = check_pass(
        EliminateDead(),
        """g (float[2,3] X) => (float[2,3] Y) <float[3] s = {1,2,3}> {
            Y, mean, deviation = LayerNormalization(X, s)
        }""",
        counts={"outputs": 2},
    )
    assert len(next(iter(model.graph.nodes)).outputs) == 1


def test_an_optional_output_in_the_middle_loses_its_name_only():
    weights = {
        "W": np.random.default_rng(0).normal(size=(1, 12, 2)).astype(np.float32),
        "R": np.random.default_rng(1).normal(size=(1, 12, 3)).astype(np.float32),
    }
    model = check_pass(
        EliminateDead(),
        """g (float[4,1,2] X) => (float[1,1,3] Y) {
            all, Y, cell = LSTM<hidden_size=3>(X, W, R)
        }""",
        weights=weights,
        counts={"outputs": 2},
    )
    assert [value.name for value in next(iter(model.graph.nodes)).outputs] == ["", "Y"]


def test_outputs_that_are_not_optional_stay():
    check_declines(
        EliminateDead(),
        "g (float[8] X) => (float[3] Y) <int64[1] k = {3}> { Y, i = TopK(X, k) }",
    )


def test_the_indices_of_a_pool_stay_because_its_kernel_depends_on_them():
    check_declines(
        EliminateDead(),
        "g (float[1,2,6,6] X) => (float[1,2,3,3] Y) { Y, i = MaxPool<kernel_shape=[2,2], strides=[2,2]>(X) }",
    )


def test_batch_norm_in_training_keeps_its_outputs():
    check_declines(
        EliminateDead(),
        """g (float[2,2] X) => (float[2,2] Y) <float[2] s = {1,1}, float[2] b = {0,0}, float[2] v = {1,1}> {
            Y, mean, var = BatchNormalization<training_mode=1>(X, s, b, b, v)
        }""",
    )


FUNCTIONS = """<ir_version: 10, opset_import: ["" : 21, "own" : 1]>
g (float[N] X) => (float[N] Y) { Y = own.outer(X) }
<opset_import: ["" : 21, "own" : 1], domain: "own"> outer (a) => (b) { b = own.inner(a) }
<opset_import: ["" : 21], domain: "own"> inner (a) => (b) { b = Neg(a) }
<opset_import: ["" : 21], domain: "own"> lonely (a) => (b) { b = Abs(a) }
"""


def test_functions_that_nobody_calls():
    model = check_pass(EliminateDead(), parse(FUNCTIONS), counts={"functions": 1})
    assert {name for _, name, _ in model.functions} == {"outer", "inner"}


def test_a_long_chain_goes_without_recursion():
    count = 20_000
    chain = " ".join(f"v{i + 1} = Neg(v{i})" for i in range(count))
    model = parse(
        f'<ir_version: 10, opset_import: ["" : 21]> g (float[2] v0) => (float[2] Y) {{ {chain} Y = Abs(v0) }}'
    )
    report = PassManager(Pipeline.of(EliminateDead())).run(model)
    assert report.steps[0].counts["nodes"] == count
    assert len(io.to_proto(model).graph.node) == 1
