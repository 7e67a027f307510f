from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphopt.data import inputs
from graphopt.data.inputs import generate, load_npz
from graphopt.data.meaning import Kind, Meaning, meaning_of
from graphopt.errors import InputError
from graphopt.ir import infer_shapes
from graphopt.proof.oracle import Reference
from graphopt.rewriting.rewriter import Rewriter
from tests.helpers import model_of, value_named

TABLE = {"table": np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)}


def meaning(text: str, name: str, weights: dict[str, np.ndarray] | None = None) -> Meaning:
    model = model_of(text, weights)
    infer_shapes(model)
    return meaning_of(value_named(model, name))


def test_an_index_stays_below_the_rows_of_its_table() -> None:
    text = """g (int32[B,S] ids) => (float[B,S,4] Y)
        { a = Cast<to=7>(ids) b = Reshape(a, flat) c = Gather(table, b)
          d = Shape(ids) e = Concat<axis=0>(d, four) Y = Reshape(c, e) }"""
    weights = {**TABLE, "flat": np.array([-1]), "four": np.array([4])}
    assert meaning(text, "ids", weights) == Meaning(Kind.INDEX, bound=50)
    ids = generate(model_of(text, weights)).inputs["ids"]
    assert ids.dtype == np.int32
    assert ids.min() >= 0
    assert 15 < ids.max() < 50


def test_the_smallest_of_several_tables_counts_and_the_axis_does() -> None:
    text = """g (int64[S] i) => (float[S,4] A, float[3,S] B) { A = Gather(table, i) B = Gather<axis=1>(wide, i) }"""
    weights = {**TABLE, "wide": np.zeros((3, 7), np.float32)}
    assert meaning(text, "i", weights) == Meaning(Kind.INDEX, bound=7)


def test_an_index_that_is_wrapped_by_arithmetic_is_followed() -> None:
    text = """g (int64[S] i) => (float[S,4] Y)
        { n = Less(i, zero) p = Add(i, rows) w = Where(n, p, i) Y = Gather(table, w) }"""
    weights = {**TABLE, "zero": np.array(0), "rows": np.array(50)}
    assert meaning(text, "i", weights) == Meaning(Kind.INDEX, bound=50)


def test_an_index_used_inside_a_branch_is_found() -> None:
    text = """g (int64[S] i, bool c) => (float[S,4] Y) {
        Y = If (c) <then_branch = a () => (float[S,4] T) { T = Gather(table, i) },
                    else_branch = b () => (float[S,4] E) { U = Gather(table, i) E = Neg(U) }> }"""
    assert meaning(text, "i", TABLE) == Meaning(Kind.INDEX, bound=50)


def test_one_hot_by_comparison() -> None:
    text = "g (int32[S,1] bytes) => (bool[S,20] Y) { Y = Equal(bytes, iota) }"
    assert meaning(text, "bytes", {"iota": np.arange(20, dtype=np.int32)}) == Meaning(Kind.INDEX, bound=20)


def test_masks_are_zeros_and_ones_with_padding() -> None:
    text = """g (int64[B,S] attention, float[B,S] scores) => (float[B,S] Y)
        { f = Cast<to=1>(attention) o = Sub(one, f) m = Mul(o, low) Y = Add(scores, m) }"""
    weights = {"one": np.array(1, np.float32), "low": np.array(-1e4, np.float32)}
    assert meaning(text, "attention", weights).kind is Kind.MASK
    mask = generate(model_of(text, weights)).inputs["attention"]
    assert set(np.unique(mask)) == {0, 1}
    assert mask[0].all()
    assert not mask[1].all()


def test_a_choice_takes_a_value_that_the_graph_knows() -> None:
    text = "g (int64 rate) => (bool Y) { Y = Equal(rate, known) }"
    model = model_of(text, {"known": np.array(16000)})
    assert generate(model).inputs["rate"] == 16000


def test_names_are_the_last_resort() -> None:
    text = "g (int64[S] input_mask, int64[S] token_type_ids) => (int64[S] Y) { Y = Add(input_mask, token_type_ids) }"
    assert meaning(text, "input_mask").kind is Kind.MASK
    assert meaning(text, "token_type_ids") == Meaning(Kind.INDEX, bound=2)


def test_divisors_and_roots_leave_no_nan() -> None:
    text = (
        "g (float[N] a, float[N] b, float[N] c) => (float[N] Y) { r = Sqrt(a) l = Log(b) s = Add(r, l) Y = Div(s, c) }"
    )
    sample = generate(model_of(text))
    assert np.isfinite(sample.outputs["Y"]).all()


def test_hidden_restrictions_are_met_by_trying() -> None:
    """The logarithm of a sum is finite for positive inputs only, which no rule tells."""
    text = "g (float[N,8] X) => (float[N] Y) { s = ReduceSum<keepdims=0>(X, one) Y = Log(s) }"
    sample = generate(model_of(text, {"one": np.array([1])}))
    assert np.isfinite(sample.outputs["Y"]).all()


def test_sizes_are_tried_until_the_model_runs() -> None:
    text = "g (float[N,L] X) => (float[N,2,256] Y) { Y = Reshape(X, s) }"
    assert generate(model_of(text, {"s": np.array([0, 2, 256])})).inputs["X"].shape == (1, 512)


def test_equal_names_are_equal_sizes_and_sums_add_up() -> None:
    text = """g (float[B,past] P, float[B,S] X, float[B,past + S] M) => (float[B,T] Y)
        { c = Concat<axis=1>(P, X) Y = Add(c, M) }"""
    text = text.replace("past + S", "total")
    model = model_of(text.replace("total", "T"))
    value = value_named(model, "M")
    Rewriter(model.graph).set_type(value, type(value.type)(value.dtype, ("B", "past + S")))
    inputs = generate(model).inputs
    assert inputs["P"].shape[0] == inputs["X"].shape[0]
    assert inputs["M"].shape[1] == inputs["P"].shape[1] + inputs["X"].shape[1]


@pytest.mark.parametrize(
    ("mask", "names"),
    [("PS", "PS = P + S, as joined names say"), ("total", "a total"), ("Q", "no name tells")],
)
def test_sizes_that_depend_on_each_other_are_found(mask: str, names: str) -> None:
    """A cache: keys of the past and the present, and a mask over both."""
    text = f"""g (float[B,past,4] P, float[B,S,4] X, float[B,S,{mask}] M) => (float[B,S,T] Y)
        {{ K = Concat<axis=1>(P, X) t = Transpose<perm=[0,2,1]>(K) s = MatMul(X, t) Y = Add(s, M) }}"""
    inputs = generate(model_of(text.replace("past", "P") if mask == "PS" else text)).inputs
    past, present, both = (inputs[name].shape[axis] for name, axis in (("P", 1), ("X", 1), ("M", 2)))
    assert both == past + present, names
    assert min(past, present) > 1


def test_two_relations_at_once_are_found() -> None:
    text = """g (float[A,4] X, float[C,4] Y, float[D,4] Z, float[E] W) => (float[D,4] R, float[E] V)
        { c = Concat<axis=0>(X, Y) R = Add(c, Z) f = ReduceSum<keepdims=0>(X, last)
          h = Concat<axis=0>(f, five) V = Add(h, W) }"""
    inputs = generate(model_of(text, {"last": np.array([1]), "five": np.ones(1, np.float32)})).inputs
    a, c, d, e = (inputs[name].shape[0] for name in "XYZW")
    assert (d, e) == (a + c, a + 1)
    assert min(a, c) > 1


def test_arguments_such_as_shapes_fit_their_operator() -> None:
    text = """g (float[2,6] X, int64[2] shape, int64[4] pads, int64[1] k)
        => (float[A,B] Y, float[C,D] Z, float[E,F] V, int64[E,F] I)
        { Y = Reshape(X, shape) Z = Pad(X, pads) V, I = TopK(X, k) }"""
    outputs = generate(model_of(text)).outputs
    assert outputs["Y"].size == 12
    assert outputs["Z"].shape == (4, 8)
    assert outputs["V"].shape == (2, 1)


def test_pictures_and_other_floats_have_a_usual_scale() -> None:
    text = "g (float[N,3,H,W] image, float[N,16] x) => (float[N,3,H,W] Y, float[N,16] Z) { Y = Neg(image) Z = Neg(x) }"
    inputs = generate(model_of(text)).inputs
    assert inputs["image"].shape[2:] == (64, 64)
    for array in inputs.values():
        assert abs(array.mean()) < 0.7
        assert 0.3 < array.std() < 2


def test_the_seed_decides() -> None:
    model = model_of("g (float[N,3] X) => (float[N,3] Y) { Y = Neg(X) }")
    np.testing.assert_array_equal(generate(model, seed=3).inputs["X"], generate(model, seed=3).inputs["X"])
    assert (generate(model, seed=3).inputs["X"] != generate(model, seed=4).inputs["X"]).any()


def test_a_given_shape_binds_the_same_names_elsewhere() -> None:
    model = model_of("g (float[N,3] A, float[N,3] B) => (float[N,3] Y) { Y = Add(A, B) }")
    inputs = generate(model, shapes={"A": (5, 3)}).inputs
    assert inputs["A"].shape == inputs["B"].shape == (5, 3)


def test_given_arrays_are_used_and_the_rest_fits_them() -> None:
    model = model_of("g (float[N,3] A, float[N,3] B) => (float[N,3] Y) { Y = Add(A, B) }")
    given = np.full((7, 3), 2, np.float32)
    inputs = generate(model, given={"A": given}).inputs
    assert inputs["A"] is given
    assert inputs["B"].shape == (7, 3)


def test_wrong_shapes_names_and_dtypes_are_refused() -> None:
    model = model_of("g (float[N,3] first, float[N,3] second) => (float[N,3] Y) { Y = Add(first, second) }")
    with pytest.raises(InputError, match=r"'first' is float32\[N,3\]: it cannot have shape 2x4"):
        generate(model, shapes={"first": (2, 4)})
    with pytest.raises(InputError, match="sets 'N' to 3, but another input sets it to 2"):
        generate(model, shapes={"first": (2, 3), "second": (3, 3)})
    with pytest.raises(InputError, match="no input 'frist'") as failure:
        generate(model, shapes={"frist": (2, 3)})
    assert failure.value.remedy == "did you mean 'first'?"
    with pytest.raises(InputError, match="dtype float64, but must have float32"):
        generate(model, given={"first": np.ones((2, 3))})


def test_no_sizes_that_work_is_an_error_with_the_first_reason() -> None:
    text = "g (float[N,L] X) => (float[7,1001] Y) { Y = Reshape(X, s) }"
    with pytest.raises(
        InputError, match="no generated inputs were accepted; the first failure: ONNX Runtime cannot run"
    ):
        generate(model_of(text, {"s": np.array([7, 1001])}))


def test_sequences_and_optionals_are_filled() -> None:
    text = """g (seq(float[3]) S, optional(float[3]) O) => (float[3] Y, bool P)
        { Y = SequenceAt(S, i) P = OptionalHasElement(O) }"""
    sample = generate(model_of(text, {"i": np.array(1)}))
    assert len(sample.inputs["S"]) == 3
    assert sample.outputs["P"]


def test_npz_files_are_checked(tmp_path: Path) -> None:
    model = model_of("g (float[N,3] X) => (float[N,3] Y) { Y = Neg(X) }")
    good = tmp_path / "good.npz"
    np.savez(good, X=np.ones((2, 3), np.float32))
    assert load_npz(good, model)["X"].shape == (2, 3)
    np.savez(tmp_path / "name.npz", Z=np.ones((2, 3), np.float32))
    with pytest.raises(InputError, match="no input 'Z'"):
        load_npz(tmp_path / "name.npz", model)
    np.savez(tmp_path / "shape.npz", X=np.ones((2, 4), np.float32))
    with pytest.raises(InputError, match="cannot have shape 2x4"):
        load_npz(tmp_path / "shape.npz", model)
    (tmp_path / "bad.npz").write_bytes(b"not a zip")
    with pytest.raises(InputError, match=r"cannot be read as an \.npz file"):
        load_npz(tmp_path / "bad.npz", model)
    with pytest.raises(InputError, match="there is no such file"):
        load_npz(tmp_path / "none.npz", model)


def test_agreeing_with_the_oracle_in_either_of_its_two_ways_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("m (float[2] x) => (float[2] y) { y = Add(x, x) }")
    sample = inputs.generate(model)
    exact = sample.outputs["y"]
    other = exact * np.float32(1.001)
    asked: list[bool] = []

    class TwoAnswers(Reference):
        def __init__(self, *args: Any, optimize: bool = False, **kwargs: Any) -> None:
            asked.append(optimize)
            super().__init__(*args, optimize=optimize, **kwargs)

        def run(self, *args: Any) -> dict[str, Any]:
            return {"y": other}

    monkeypatch.setattr(inputs, "Reference", TwoAnswers)
    assert inputs.compare_with_oracle(model, sample, {"y": exact}).ok
    assert asked == []
    assert inputs.compare_with_oracle(model, sample, {"y": other}).ok
    assert asked == [True]
    wrong = inputs.compare_with_oracle(model, sample, {"y": exact * np.float32(1.01)})
    assert not wrong.ok
    assert wrong.error == pytest.approx(0.01, rel=1e-3)
