import numpy as np
import pytest

from graphopt.ir import Model
from graphopt.passes.cleanup.simplify_reshape import SimplifyReshape
from graphopt.passes.matching.reshaping import constant_target, target_for
from graphopt.proof.oracle import run_reference
from tests.helpers import check_declines, check_pass


def ints(**lists: list[int]) -> dict[str, np.ndarray]:
    return {name: np.array(items, np.int64) for name, items in lists.items()}


def check_empty(model: Model, data: tuple[int, ...], result: tuple[int, ...]) -> None:
    """Check that the model still takes an empty batch."""
    assert run_reference(model, {"X": np.zeros(data, np.float32)})["Y"].shape == result


@pytest.mark.parametrize(
    ("body", "target"),
    [
        ("a = Reshape(X, s) Y = Reshape(a, t)", [4, 6]),
        ("a = Flatten<axis=2>(X) Y = Reshape(a, t)", [4, 6]),
        ("a = Unsqueeze(X, zero) b = Reshape(a, s) Y = Flatten<axis=1>(Z)", None),
        ("a = Reshape(X, s) b = Unsqueeze(a, zero) c = Squeeze(b, zero) Y = Reshape(c, t)", [4, 6]),
    ],
)
def test_a_chain_becomes_one_reshape(body, target):
    if target is None:
        body = body.replace("Y = Flatten<axis=1>(Z)", "c = Flatten<axis=1>(b) Y = Reshape(c, t)")
        target = [4, 6]
    check_pass(
        SimplifyReshape(),
        f"g (float[2,3,4] X) => (float[4,6] Y) {{ {body} }}",
        "g (float[2,3,4] X) => (float[4,6] Y) { Y = Reshape(X, t) }",
        weights=ints(s=[12, 2], t=target, zero=[0]),
    )


def test_there_and_back_is_nothing():
    check_pass(
        SimplifyReshape(),
        "g (float[2,3,4] X) => (float[2,3,4] Y) { a = Reshape(X, s) b = Reshape(a, t) Y = Exp(b) }",
        "g (float[2,3,4] X) => (float[2,3,4] Y) { Y = Exp(X) }",
        weights=ints(s=[24], t=[2, -1, 4]),
        counts={"rewritten": 1},
    )


def test_back_to_the_shape_that_it_had():
    check_pass(
        SimplifyReshape(),
        "g (float[A,B] X) => (float[C,D] Y) { s = Shape(X) a = Flatten<axis=0>(X) b = Reshape(a, s) Y = Exp(b) }",
        "g (float[A,B] X) => (float[C,D] Y) { Y = Exp(X) }",
        shapes={"X": (2, 3)},
    )


def test_squeeze_takes_back_unsqueeze_for_any_size():
    check_pass(
        SimplifyReshape(),
        "g (float[A,B] X) => (float[A,B] Y) { a = Unsqueeze(X, u) b = Squeeze(a, v) Y = Exp(b) }",
        "g (float[A,B] X) => (float[A,B] Y) { Y = Exp(X) }",
        weights=ints(u=[0, -1], v=[-1, 0]),
        shapes={"X": (2, 3)},
    )


def test_unsqueeze_takes_back_squeeze_for_any_size():
    check_pass(
        SimplifyReshape(),
        "g (float[A,1,B] X) => (float[A,1,B] Y) { a = Squeeze(X, u) b = Unsqueeze(a, u) Y = Exp(b) }",
        "g (float[A,1,B] X) => (float[A,1,B] Y) { Y = Exp(X) }",
        weights=ints(u=[1]),
        shapes={"X": (2, 1, 3)},
    )


def test_a_target_that_does_not_look_at_its_data_serves_any_size():
    model = check_pass(
        SimplifyReshape(),
        "g (float[A,B] X) => (float[M,4] Y) { a = Flatten<axis=0>(X) Y = Reshape(a, t) }",
        "g (float[A,B] X) => (float[M,4] Y) { Y = Reshape(X, t) }",
        weights=ints(t=[-1, 4]),
        shapes={"X": (2, 6)},
    )
    check_empty(model, (0, 6), (0, 4))


def test_a_copied_symbol_at_the_same_place_is_still_there():
    model = check_pass(
        SimplifyReshape(),
        "g (float[N,3,4] X) => (float[N,2,6] Y) { a = Reshape(X, s) Y = Reshape(a, t) }",
        "g (float[N,3,4] X) => (float[N,2,6] Y) { Y = Reshape(X, z) }",
        weights=ints(s=[0, 12], t=[0, 2, 6]),
        shapes={"X": (2, 3, 4)},
    )
    check_empty(model, (0, 3, 4), (0, 2, 6))
    (target,) = [value.tensor.numpy().tolist() for value in model.graph.initializers.values() if value.has_uses]
    assert target == [0, 2, 6]


def test_squeezing_ones_keeps_the_symbol_in_front():
    check_pass(
        SimplifyReshape(),
        "g (float[N,8,1,1] X) => (float[N,8] Y) { a = Flatten(X) b = Unsqueeze(a, u) Y = Squeeze(b, u) }",
        "g (float[N,8,1,1] X) => (float[N,8] Y) { Y = Reshape(X, t) }",
        weights=ints(u=[2]),
        shapes={"X": (3, 8, 1, 1)},
    )


def test_a_copied_size_that_is_known_is_written_out():
    model = check_pass(
        SimplifyReshape(),
        "g (float[4,3,N] X) => (float[A,B,C] Y) { a = Reshape(X, s) Y = Reshape(a, t) }",
        "g (float[4,3,N] X) => (float[A,B,C] Y) { Y = Reshape(X, z) }",
        weights=ints(s=[12, -1], t=[0, 1, -1]),
        shapes={"X": (4, 3, 5)},
    )
    (target,) = [value.tensor.numpy().tolist() for value in model.graph.initializers.values() if value.has_uses]
    assert target == [12, 1, -1]


@pytest.mark.parametrize(
    ("signature", "body", "weights"),
    [
        # the 0 copies B, which stands elsewhere in X
        ("g (float[A,1,B] X) => (float[P,Q,R] Y)", "a = Squeeze(X, s) Y = Reshape(a, t)", ints(s=[1], t=[2, 0, -1])),
        # two symbols that change places
        ("g (float[A,B] X) => (float[P,Q,R] Y)", "a = Unsqueeze(X, u) Y = Unsqueeze(a, u)", ints(u=[0])),
        # N copied and a -1 for M: with N = 0 the -1 could not be found
        ("g (float[N,2,M] X) => (float[N,M,1,2] Y)", "a = Flatten(X) Y = Reshape(a, t)", {}),
    ],
)
def test_sizes_that_one_constant_cannot_tell(signature, body, weights):
    if not weights:
        signature = signature.replace("X)", "X, int64[4] t)")
    check_declines(
        SimplifyReshape(),
        f"{signature} {{ {body} }}",
        "no constant target is right for every size of the dimensions",
        weights=weights,
    )


def test_a_target_where_zero_means_zero_stays():
    check_declines(
        SimplifyReshape(),
        "g (float[A,0] X) => (float[B,C] Y) { a = Reshape(X, s) Y = Reshape<allowzero=1>(a, t) }",
        "no constant target is right for every size of the dimensions",
        weights=ints(s=[-1, 2], t=[0, 5]),
    )


def test_a_lone_reshape_is_no_near_miss():
    check_declines(SimplifyReshape(), "g (float[A,B] X) => (float[C] Y) { Y = Reshape(X, t) }", weights=ints(t=[-1]))


def test_a_middle_that_is_used_elsewhere_or_given_out_stays():
    check_pass(
        SimplifyReshape(),
        """g (float[2,3,4] X) => (float[6,4] M, float[24] Y, float[12,2] Z) {
            M = Reshape(X, s) Y = Flatten<axis=0>(M) a = Reshape(M, t) Z = Exp(a)
        }""".replace("Y = Flatten<axis=0>(M)", "Y = Reshape(M, u)"),
        """g (float[2,3,4] X) => (float[6,4] M, float[24] Y, float[12,2] Z) {
            M = Reshape(X, s) Y = Reshape(X, u) a = Reshape(X, t) Z = Exp(a)
        }""",
        weights=ints(s=[6, 4], t=[12, 2], u=[-1]),
    )


def test_across_a_capture():
    check_pass(
        SimplifyReshape(),
        """g (bool c, float[2,6] X) => (float[4,3] Y) {
            a = Reshape(X, s)
            Y = If(c) <then_branch = b () => (float[4,3] p) { p = Reshape(a, t) },
                       else_branch = e () => (float[4,3] q) { r = Neg(a) q = Reshape(r, t) }>
        }""",
        """g (bool c, float[2,6] X) => (float[4,3] Y) {
            a = Reshape(X, s)
            Y = If(c) <then_branch = b () => (float[4,3] p) { p = Reshape(X, t) },
                       else_branch = e () => (float[4,3] q) { r = Neg(a) q = Reshape(r, t) }>
        }""",
        weights=ints(s=[12], t=[4, 3]),
        inputs=[{"c": np.array(c), "X": np.arange(12, dtype=np.float32).reshape(2, 6)} for c in (True, False)],
    )


@pytest.mark.parametrize("flatten", ["Flatten<axis=-1>(X)", "Reshape(X, s)"])
def test_a_softmax_of_rows_needs_no_matrix(flatten):
    check_pass(
        SimplifyReshape(),
        f"""g (float[A,B,8] X) => (float[A,B,8] Y) {{
            s = Constant<value_ints=[-1,8]>() m = {flatten} r = Softmax(m) t = Shape(X) Y = Reshape(r, t)
        }}""",
        "g (float[A,B,8] X) => (float[A,B,8] Y) { Y = Softmax(X) }",
        shapes={"X": (2, 3, 8)},
    )


@pytest.mark.parametrize(
    "body",
    [
        "m = Flatten<axis=1>(X) r = Softmax(m) Y = Reshape(r, t)",  # other rows
        "m = Flatten<axis=-1>(X) r = Softmax<axis=0>(m) Y = Reshape(r, t)",  # columns
        "m = Flatten<axis=-1>(X) r = Softmax(m) e = Exp(r) q = ReduceMax(e) p = Reshape(r, t) Y = Add(p, q)",
    ],
)
def test_other_softmaxes_stay(body):
    check_declines(SimplifyReshape(), f"g (float[A,B,8] X) => (float[A,B,8] Y) {{ t = Shape(X) {body} }}")


def test_an_old_opset_is_left_alone():
    check_declines(
        SimplifyReshape(),
        '<ir_version: 7, opset_import: ["" : 11]> g (float[2,3] X) => (float[2,3] Y) '
        "{ a = Unsqueeze<axes=[0]>(X) Y = Squeeze<axes=[0]>(a) }",
        "opset below 18",
    )


@pytest.mark.parametrize(
    ("source", "wanted", "target"),
    [
        (("N", 6), (2, 3), (2, 3)),
        (("N", 6), ("N", 2, 3), (0, 2, 3)),
        (("N", "S"), ("N", "S", 1), (0, 0, 1)),
        (("N", "S"), (1, "N", "S"), None),
        (("N",), ("M",), (-1,)),
        (None, (4, None), (4, -1)),
        ((None, 4), (None, 4), (-1, 4)),
        (("N", 2, "M"), ("N", "M", 2), None),
        ((0, 3), (3, 0), None),
    ],
)
def test_targets(source, wanted, target):
    assert target_for(source, wanted) == target


@pytest.mark.parametrize(
    ("source", "items", "target"),
    [
        (("N", 6), ("N", -1), (0, -1)),
        (("N", 6), (0, -1), (0, -1)),
        (("N", 6), ("M", -1), None),
        (("N", 6), (0, "M"), None),
    ],
)
def test_targets_that_hold_instructions(source, items, target):
    assert constant_target(source, items) == target
