"""Special inputs: what is planted, what is left alone, and that verification runs on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

from graphopt.data.inputs import verification_samples
from graphopt.driver.optimizing import optimize
from graphopt.errors import VerificationError
from graphopt.ir import Node
from graphopt.proof.numerical import CheckNumbers
from graphopt.rewriting.passes import Fidelity, Miss, PassContext, RewritePass, Rewriter
from graphopt.rewriting.pipeline import Pipeline
from tests.helpers import model_of

ELEMENTWISE = "g (float[N,8] X, int8[N,8] I) => (float[N,8] Y, int8[N,8] J) { Y = Mul(X, two) J = Identity(I) }"
TWO = {"two": np.array(2, np.float32)}


def arrays(text: str, weights: dict[str, Any] | None = None, name: str = "X") -> list[np.ndarray]:
    return [sample.inputs[name] for sample in verification_samples(model_of(text, weights or {}))]


def test_zeros_of_both_signs_and_what_is_not_finite() -> None:
    found = np.concatenate([array.ravel() for array in arrays(ELEMENTWISE, TWO)])
    zeros = found[found == 0]
    assert set(np.signbit(zeros)) == {False, True}
    assert np.isnan(found).any()
    assert {np.inf, -np.inf} <= set(found[np.isinf(found)])
    usual = arrays(ELEMENTWISE, TWO)[0]
    assert np.isfinite(usual).all()


def test_extremes_of_integers() -> None:
    found = np.concatenate([array.ravel() for array in arrays(ELEMENTWISE, TWO, "I")[1:2]])
    assert {-128, 127, 0} <= set(found)


def test_open_sizes_become_0_and_1() -> None:
    assert {array.shape[0] for array in arrays(ELEMENTWISE, TWO)} == {0, 1, 2}


def test_dependent_sizes_stay_so() -> None:
    text = """g (float[B,past,4] X, float[B,S,4] Z, float[B,S,total] M) => (float[B,S,T] Y)
        { K = Concat<axis=1>(X, Z) t = Transpose<perm=[0,2,1]>(K) s = MatMul(Z, t) Y = Add(s, M) }"""
    samples = verification_samples(model_of(text))
    sizes = {(s.inputs["X"].shape[1], s.inputs["Z"].shape[1], s.inputs["M"].shape[2]) for s in samples}
    assert all(total == past + present for past, present, total in sizes)
    assert {0, 1} <= {past for past, _, _ in sizes}


@pytest.mark.parametrize(
    "text",
    [
        "g (int64[1] X, float[8] D) => (float[n] Y) { Y = Expand(D, X) }",
        "g (int64[4] X, float[8] D) => (float[4] Y) { i = Mod(X, one) Y = Gather(D, i) }",
        "g (float[4] X) => (int64[n] Y) { s = ReduceSum<keepdims=0>(X) i = Cast<to=7>(s) Y = Range(zero, i, one) }",
        "g (int64[4] X) => (float[4,n] Y) { m = ReduceMax<keepdims=1>(X) Y = ConstantOfShape(m) }",
    ],
)
def test_what_decides_sizes_and_places_is_left_alone(text: str) -> None:
    weights = {"zero": np.array(0), "one": np.array(1)}
    for array in arrays(text, {name: weight for name, weight in weights.items() if f"{name}" in text}):
        assert np.isfinite(array).all()
        assert np.abs(array).max(initial=0) < 1000


def test_what_the_oracle_does_not_survive_is_left_out() -> None:
    """An infinity makes a whole sum infinite; nothing can be compared then."""
    text = "g (float[N,8] X) => (float[N,8] Y) { s = ReduceSum(X) Y = Sub(X, s) }"
    assert all(np.isfinite(array).all() for array in arrays(text))


def test_the_largest_number_instead_of_an_infinity_is_left_out() -> None:
    text = "g (float[N,8] X) => (float[N,8] Y) { s = ReduceSum(X) c = Clip(s) Y = Sub(c, X) }"
    assert all(np.isfinite(array).all() for array in arrays(text))


@pytest.mark.parametrize(
    ("body", "planted"),
    [
        ("t = Sub(X, X)  m = MaxPool<kernel_shape=[2,2]>(t)  Y = Relu(m)", set()),  # NaN
        ("t = Abs(X)  m = MaxPool<kernel_shape=[2,2]>(t)  Y = Relu(m)", {"inf"}),
        ("m = MaxPool<kernel_shape=[2,2]>(X)  Y = Relu(m)", {"inf"}),
        ("t = Sub(X, X)  Y = Relu(t)", {"inf", "nan"}),
    ],
)
def test_no_nan_where_it_depends_on_the_kernel_what_becomes_of_it(body: str, planted: set[str]) -> None:
    text = f"g (float[1,2,16,16] X) => (float[A,B,C,D] Y) {{ {body} }}"
    found = np.concatenate([array.ravel() for array in arrays(text)])
    assert {str(abs(x)) for x in found if not np.isfinite(x)} == planted


@pytest.mark.parametrize(("pads", "smallest"), [("0,0,0,0", 3), ("1,1,1,1", 1)])
def test_sizes_are_not_1_where_a_window_is_longer(pads: str, smallest: int) -> None:
    pool = f"MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[{pads}]>(r)"
    text = f"g (float[1,1,H,W] X) => (float[1,1,A,B] Y) {{ r = Relu(X)  Y = {pool} }}"
    assert min(size for array in arrays(text) for size in array.shape[2:] if size) >= smallest
    assert (min(array.shape[2] for array in arrays(text) if array.size) == 1) == (smallest == 1)


def test_samples_that_a_model_refuses_because_they_are_empty_are_dropped() -> None:
    model = model_of("g (float[N,4] X) => (float[A,B] Y) { r = Reshape(X, s)  Y = Abs(r) }", {"s": np.array([0, -1])})
    checks = CheckNumbers(samples=[{"X": np.ones((n, 4), np.float32)} for n in (2, 0, 1)])
    checks.begin(model, Pipeline.of())
    assert [sample["X"].shape[0] for sample in checks.samples] == [2, 1]


def test_models_at_which_the_oracle_would_crash_get_no_empty_inputs() -> None:
    text = "g (float[S,B,4] X) => (float[S,1,B,2] Y) { Y = GRU<hidden_size=2>(X, w, r) }"
    weights = {"w": np.ones((1, 6, 4), np.float32), "r": np.ones((1, 6, 2), np.float32)}
    assert all(array.size for array in arrays(text, weights))


def test_the_user_s_inputs_stay_as_they_are() -> None:
    given = {"X": np.ones((3, 8), np.float32)}
    for sample in verification_samples(model_of(ELEMENTWISE, TWO), given=given):
        np.testing.assert_array_equal(sample.inputs["X"], given["X"])


@dataclass(frozen=True)
class TimesZero(RewritePass):
    """Say that a product with zero is zero, which is wrong of a NaN, of an infinity and of the sign."""

    name: ClassVar[str] = "planted-times-zero"
    fidelity: ClassVar[Fidelity] = Fidelity.FLOAT
    ops: ClassVar[tuple[str, ...]] = ("Mul",)

    def match(self, node: Node, context: PassContext) -> Node | Miss:
        producer = node.inputs[0].producer if node.inputs[0] is not None else None
        return Miss() if producer is not None else node

    def rewrite(self, match: Node, rewriter: Rewriter) -> None:
        finite = rewriter.op("Clip", [match.inputs[0], *(rewriter.constant(np.float32(x)) for x in (-9, 9))])
        rewriter.replace(match, rewriter.op("Mul", [finite.output, match.inputs[1]]).output)


def test_a_pass_that_forgets_what_is_not_finite_is_caught() -> None:
    model = model_of("g (float[N,8] X) => (float[N,8] Y) { Y = Mul(X, zero) }", {"zero": np.array(0, np.float32)})
    with pytest.raises(VerificationError, match="a NaN or an infinity in only one"):
        optimize(model, Pipeline.of(TimesZero()), verify=True)
