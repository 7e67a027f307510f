from collections.abc import Iterator

import numpy as np
import pytest

from graphopt.ir.text import parse
from graphopt.passes.cleanup.fold_constants import FoldConstants
from graphopt.passes.matching import evaluating
from graphopt.proof.oracle import Reference
from graphopt.rewriting.pipeline import PassManager, Pipeline
from tests.helpers import check_declines, check_pass

FOLD = FoldConstants()
TOO_LARGE = "the result is larger than its constants and the limit"


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Return the number of nodes that each session evaluates."""
    made: list[int] = []

    def counted(proto):
        made.append(len(proto.graph.node))
        return Reference(proto)

    monkeypatch.setattr(evaluating, "Reference", counted)
    return made


def test_an_expression_of_constants(sessions):
    check_pass(
        FOLD,
        """g (float[N] X) => (float[N] Y) <float a = {2}, float b = {-3}> {
            c = Mul(a, b) d = Exp(c) e = Sub(d, a) Y = Mul(X, e)
        }""",
        "g (float[N] X) => (float[N] Y) { Y = Mul(X, k) }",
        counts={"values": 1, "nodes": 3},
    )
    assert sessions == [3]


def test_everything_in_one_session(sessions):
    body = " ".join(f"a{i} = Exp(w{i}) b{i} = Neg(a{i}) y{i} = Mul(X, b{i})" for i in range(50))
    total = ", ".join(f"y{i}" for i in range(50))
    model = check_pass(
        FOLD,
        f"g (float[4] X) => (float[4] Y) {{ {body} Y = Sum({total}) }}",
        ops={"Mul": 50, "Sum": 1},
        weights={f"w{i}": np.float32(i / 50) for i in range(50)},
    )
    assert sessions == [100]
    assert len(model.graph.initializers) == 50


def test_constant_nodes_become_initializers(sessions):
    model = check_pass(
        FOLD,
        """g (float[N] X) => (float[N] Y) {
            a = Constant<value_float=2.0>() s = Constant<value_ints=[-1]>() b = Mul(X, a) Y = Reshape(b, s)
        }""",
        counts={"constants": 2},
    )
    assert {node.op for node in model.graph.nodes} == {"Mul", "Reshape"}
    assert sessions == []


def test_a_constant_node_at_an_output_stays():
    check_declines(FOLD, "g (float[N] X) => (float[N] Y, float Z) { Z = Constant<value_float=2.0>() Y = Abs(X) }")


def test_an_output_that_is_constant_keeps_its_name():
    check_pass(
        FOLD,
        "g (float[2] X) => (float[2] Y, float[2] Z) <float[2] a = {1, -2}> { Y = Abs(X) Z = Exp(a) }",
        "g (float[2] X) => (float[2] Y, float[2] Z) { Y = Abs(X) Z = Identity(k) }",
    )


def test_nan_and_infinity_are_values_like_others():
    check_pass(
        FOLD,
        "g (float[3] X) => (float[3] Y) { a = Log(w) b = Div(a, z) Y = Add(X, b) }",
        "g (float[3] X) => (float[3] Y) { Y = Add(X, k) }",
        weights={"w": np.array([-1, 0, 1], np.float32), "z": np.float32(0)},
    )


@pytest.mark.parametrize(
    "body",
    [
        "r = RandomNormal<shape=[2]>() Y = Add(X, r)",
        "r = RandomNormalLike<seed=1.0>(w) Y = Add(X, r)",
        "r = Bernoulli(w) Y = Add(X, r)",
        "r = Dropout(w, half, yes) Y = Add(X, r)",
    ],
)
def test_random_numbers_are_drawn_at_run_time(body):
    weights = "float[2] w = {0.25, 0.5}, float half = {0.5}, bool yes = {1}"
    check_declines(FOLD, f"g (float[2] X) => (float[2] Y) <{weights}> {{ {body} }}")


def test_dropout_at_inference_is_folded():
    check_pass(
        FOLD,
        "g (float[2] X) => (float[2] Y) <float[2] w = {1, 2}> { r = Dropout(w) Y = Add(X, r) }",
        "g (float[2] X) => (float[2] Y) { Y = Add(X, k) }",
    )


def test_quantized_weights_keep_their_size():
    check_declines(
        FOLD,
        """g (float[4] X) => (float[4] Y) <int8[4] w = {1, -2, 3, -4}, float s = {0.5}, int8 z = {0}> {
            d = DequantizeLinear(w, s, z) t = Neg(d) Y = Mul(X, t)
        }""",
    )


def test_weights_are_quantized_ahead_of_time():
    check_pass(
        FOLD,
        """g (float[4] X) => (float[4] Y) <float[4] w = {1, -2, 3, -4}, float s = {0.5}, int8 z = {0}> {
            q = QuantizeLinear(w, s, z) d = DequantizeLinear(q, s, z) Y = Mul(X, d)
        }""",
        """g (float[4] X) => (float[4] Y) <float s = {0.5}, int8 z = {0}> {
            d = DequantizeLinear(k, s, z) Y = Mul(X, d)
        }""",
    )


def test_the_file_does_not_grow_without_reason(sessions):
    text = """g (float[50000] X) => (float[50000] Y) <int64[1] n = {50000}> {
        b = ConstantOfShape<value = float[1] {1.5}>(n) Y = Mul(X, b)
    }"""
    check_declines(FOLD, text, TOO_LARGE, times=1)
    assert sessions == []  # its type tells
    check_pass(FoldConstants(limit=200_000), text, ops={"Mul": 1})


def test_as_large_as_the_weights_that_go_is_no_growth():
    big = np.random.default_rng(0).normal(size=(200, 100)).astype(np.float32)
    check_pass(
        FOLD,
        "g (float[N,100] X) => (float[N,200] Y) { t = Transpose(W) u = Exp(t) Y = MatMul(X, u) }",
        "g (float[N,100] X) => (float[N,200] Y) { Y = MatMul(X, k) }",
        weights={"W": big},
    )


def test_weights_that_others_use_do_not_go():
    big = np.random.default_rng(0).normal(size=(200, 100)).astype(np.float32)
    text = """g (float[N,100] X, float[N,200] Z) => (float[N,200] Y, float[N,100] V) {
        t = Transpose(W) Y = MatMul(X, t) V = MatMul(Z, W)
    }"""
    check_declines(FOLD, text, TOO_LARGE, weights={"W": big})
    check_pass(FoldConstants(limit=80_000), text, ops={"MatMul": 2}, weights={"W": big})


def test_small_parts_of_what_is_too_large_are_folded():
    check_pass(
        FoldConstants(limit=64),
        """g (float[1000] X) => (float[1000] Y) <int64 n = {500}, float v = {1}> {
            m = Add(n, n) w = Neg(v) s = Unsqueeze(m, axis) e = Expand(w, s) Y = Add(X, e)
        }""",
        "g (float[1000] X) => (float[1000] Y) { e = Expand(k, j) Y = Add(X, e) }",
        weights={"axis": np.array([0], np.int64)},
    )


def test_a_result_whose_size_only_evaluation_tells():
    text = """g (int64 X) => (int64 Y) <int64 zero = {0}, int64 one = {1}, int64 n = {100000}> {
        r = Range(zero, n, one) z = NonZero(r) s = Add(z, X) Y = ReduceMax<keepdims=0>(s)
    }"""
    check_declines(FOLD, text, TOO_LARGE, times=2)


def test_what_cannot_be_evaluated_is_reported_and_does_not_hide_the_rest(sessions):
    text = """g (float[2] X) => (float[2] Y, float[C] Z) <float[2] a = {1, 2}, int64[1] bad = {5}> {
        b = Exp(a) Y = Mul(X, b) c = Gather(a, bad) Z = Mul(X, c)
    }"""
    model = parse('<ir_version: 10, opset_import: ["" : 21]>' + text)
    report = PassManager(Pipeline.of(FOLD)).run(model)
    assert report.steps[0].counts["values"] == 1
    ((reason, times),) = report.steps[0].misses.items()
    assert reason.startswith("cannot be evaluated: ONNX Runtime cannot run it")
    assert times == 1
    assert sorted(node.op for node in model.graph.nodes) == ["Gather", "Mul", "Mul"]
    assert sessions == [2, 1, 1]


def test_strings_and_sequences_stay():
    check_declines(
        FOLD,
        """g (float[2] X) => (float[4] Y, string[2] S) <float[2] w = {1, 2}> {
            q = SequenceConstruct(w, w) c = ConcatFromSequence<axis=0>(q) r = ReduceMax(X) Y = Add(c, r)
            S = Cast<to=8>(w)
        }""",
    )


def test_a_default_that_a_caller_may_override_stays():
    check_declines(FOLD, "g (float[2] X, float[2] w = {1, 2}) => (float[2] Y) { a = Exp(w) Y = Add(X, a) }")


def test_defaults_of_old_files_are_constants():
    """Before IR version 4 every initializer had to be listed as an input as well."""
    check_pass(
        FOLD,
        """<ir_version: 3, opset_import: ["" : 18]>
        g (float[2] X, float[2] w = {1, 2}) => (float[2] Y) { a = Exp(w) Y = Add(X, a) }""",
        ops={"Add": 1},
    )


def test_domains_that_onnx_runtime_does_not_know(sessions):
    check_pass(
        FOLD,
        """<ir_version: 10, opset_import: ["" : 21, "own" : 3]>
        g (float[2] X) => (float[2] Y) <float[2] w = {1, 2}> { a = Exp(w) b = own.twice(X) Y = Add(b, a) }
        <opset_import: ["" : 21], domain: "own"> twice (x) => (y) { y = Add(x, x) }""",
        ops={"Add": 2, "own::twice": 1},
    )
    assert sessions == [1]


def test_in_nested_graphs_with_constants_of_outer_ones():
    check_pass(
        FOLD,
        """g (bool c, float[2] X) => (float[2] Y) <float[2] w = {1, 2}> {
            v = Exp(w)
            Y = If(c) <then_branch = t () => (float[2] p) { a = Neg(v) p = Add(X, a) },
                       else_branch = e () => (float[2] q) { q = Neg(w) }>
        }""",
        """g (bool c, float[2] X) => (float[2] Y) {
            Y = If(c) <then_branch = t () => (float[2] p) { p = Add(X, k) },
                       else_branch = e () => (float[2] q) { q = Identity(j) }>
        }""",
        inputs=[{"c": np.array(c), "X": np.array([1, -2], np.float32)} for c in (True, False)],
    )


def test_equal_names_in_two_branches():
    check_pass(
        FOLD,
        """g (bool c, float[2] X) => (float[2] Y) {
            Y = If(c) <then_branch = t () => (float[2] p) <float[2] w = {1, 2}> { a = Neg(w) p = Add(X, a) },
                       else_branch = e () => (float[2] q) <float[2] w = {3, 4}> { a = Exp(w) q = Add(X, a) }>
        }""",
        ops={"If": 1, "Add": 2},
        inputs=[{"c": np.array(c), "X": np.array([1, -2], np.float32)} for c in (True, False)],
    )


def test_all_results_of_a_node():
    check_pass(
        FOLD,
        """g (float[2] X) => (float[2] Y) <float[4] w = {1, 2, 3, 4}> {
            a, b = Split<num_outputs=2>(w) c = Mul(X, a) Y = Add(c, b)
        }""",
        "g (float[2] X) => (float[2] Y) { c = Mul(X, k) Y = Add(c, j) }",
        counts={"values": 2, "nodes": 1},
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "double", "int8", "bool", "uint16"])
def test_element_types(dtype):
    number = {"float16": 10, "bfloat16": 16, "double": 11, "int8": 3, "bool": 9, "uint16": 4}[dtype]
    check_pass(
        FOLD,
        f"""g ({dtype}[2] X) => ({dtype}[4] Y) <float[2] w = {{1.5, 2}}> {{
            a = Cast<to={number}>(w) b = Concat<axis=0>(a, a) c = Concat<axis=0>(X, X) d = Concat<axis=0>(c, b)
            Y = Slice(d, s, e)
        }}""",
        ops={"Concat": 2, "Slice": 1},
        weights={"s": np.array([2], np.int64), "e": np.array([6], np.int64)},
    )


def test_a_chain_goes_without_recursion(sessions):
    count = 3_000
    chain = " ".join(f"v{i + 1} = Neg(v{i})" for i in range(count))
    header = '<ir_version: 10, opset_import: ["" : 21]>'
    signature = "g (float[2] X) => (float[2] Y) <float[2] v0 = {1, 2}>"
    model = parse(f"{header} {signature} {{ {chain} Y = Add(X, v{count}) }}")
    PassManager(Pipeline.of(FOLD)).run(model)
    assert len(model.graph.nodes) == 1
    assert sessions == [count]
