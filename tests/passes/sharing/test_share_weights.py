import numpy as np

from graphopt.ir import DType, Tensor
from graphopt.passes.sharing.share_weights import ShareWeights
from graphopt.rewriting.passes import PassContext, Rewriter
from tests.helpers import check_declines, check_pass, model_of

W = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)


def names(model):
    return {value.name for scope in model.graph.all_graphs() for value in scope.initializers.values()}


def test_equal_weights_are_stored_once():
    model = check_pass(
        ShareWeights(),
        "g (float[N,3] X) => (float[N,3] Y) { a = MatMul(X, A) b = MatMul(a, B) Y = MatMul(b, C) }",
        weights={"A": W, "B": W.copy(), "C": W + 1},
        counts={"weights": 1, "bytes": 36},
    )
    assert names(model) == {"A", "C"}


def test_equal_bytes_of_another_type_or_shape_or_sign_of_zero_stay():
    weights = {
        "A": np.zeros((2, 3), np.float32),
        "B": np.zeros((3, 2), np.float32),
        "C": np.zeros((2, 3), np.int32),
        "D": np.full((2, 3), -0.0, np.float32),
    }
    check_declines(
        ShareWeights(),
        """g (float[2,3] X) => (float[2,2] Y, float[2,3] Z) {
            a = Add(X, A) Y = MatMul(a, B) c = Cast<to=1>(C) Z = Sum(c, X, D)
        }""",
        weights=weights,
    )


def test_nan_is_equal_to_itself():
    odd = np.array([np.nan, -0.0, np.inf], np.float32)
    model = check_pass(
        ShareWeights(),
        "g (float[3] X) => (float[3] Y) { a = Add(X, A) Y = Mul(a, B) }",
        weights={"A": odd, "B": odd},
        counts={"weights": 1},
    )
    assert names(model) == {"A"}


NESTED = """g (bool c, float[3,3] X) => (float[3,3] Y) {
    Y = If(c) <then_branch = t () => (float[3,3] p) <float[3] A = {1, 2, 3}> { p = Add(X, A) },
               else_branch = e () => (float[3,3] q) <float[3] B = {1, 2, 3}> { q = Mul(X, B) }>
}"""


def test_weights_of_two_branches_move_out():
    model = check_pass(ShareWeights(), NESTED, counts={"weights": 1})
    assert len(model.graph.initializers) == 1
    assert len(names(model)) == 1


def test_a_branch_uses_the_weight_of_the_main_graph():
    text = NESTED.replace(
        "Y) {", "Y, float[3] Z) <float[3] M = {1, 2, 3}> { r = ReduceMax<keepdims=0>(X) Z = Add(M, r)"
    )
    model = check_pass(ShareWeights(), text, counts={"weights": 2})
    assert names(model) == {"M"}


def test_what_a_caller_may_override_stays():
    check_declines(
        ShareWeights(),
        """g (float[3] X, float[3] A = {1, 2, 3}) => (float[3] Y) <float[3] B = {1, 2, 3}> {
            a = Add(X, A) Y = Mul(a, B)
        }""",
    )


def test_a_weight_that_is_an_output_is_the_one_to_stay():
    model = check_pass(
        ShareWeights(),
        "g (float[3] X) => (float[3] Y, float[3] B) <float[3] A = {1, 2, 3}, float[3] B = {1, 2, 3}> { Y = Mul(X, A) }",
        counts={"weights": 1},
    )
    assert names(model) == {"B"}


def test_two_outputs_stay_two():
    check_declines(
        ShareWeights(),
        """g (float[3] X) => (float[3] A, float[3] B, float[3] Y) <float[3] A = {1, 2, 3}, float[3] B = {1, 2, 3}> {
            Y = Neg(X)
        }""",
        "a graph gives out both of two equal weights",
    )


def test_small_ones_are_left_alone_on_request():
    text = "g (float[N,3] X) => (float[N,3] Y) { a = MatMul(X, A) b = MatMul(a, B) c = Add(b, D) Y = Add(c, E) }"
    weights = {"A": W, "B": W, "D": W[0], "E": W[0]}
    model = check_pass(ShareWeights(min_bytes=36), text, weights=weights, counts={"weights": 1})
    assert names(model) == {"A", "D", "E"}


def test_weights_that_differ_in_type_are_not_even_read():
    def refuse() -> np.ndarray:
        raise AssertionError("the weight was read")

    model = model_of("g (float[N,300] X) => (float[N,300] Y) { Y = Neg(X) }")
    rewriter = Rewriter(model.graph)
    for columns in (300, 400):
        value = rewriter.constant(Tensor(DType.FLOAT, (300, columns), refuse))
        rewriter.op("MatMul", [model.graph.inputs[0], value])
    ShareWeights().run(model.graph, PassContext(model))
