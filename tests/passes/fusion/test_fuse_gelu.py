from __future__ import annotations

import numpy as np
import pytest

from graphopt.passes.fusion.fuse_gelu import FuseGelu
from graphopt.proof.tolerance import Tolerance
from graphopt.rewriting.passes import PassContext
from tests.helpers import check_declines, check_pass, model_of, ops

PASS = FuseGelu()
SIGNATURE = "g (float[N,5] X) => (float[N,5] Y)"


def numbers(dtype=np.float32, **more):
    given = {
        "root2": np.sqrt(2),
        "half_root": np.sqrt(0.5),
        "one": 1,
        "half": 0.5,
        "two": 2,
        "three": 3,
        "cubic": 0.044715,
        "outer": np.sqrt(2 / np.pi),
    }
    return {name: np.asarray(value, dtype) for name, value in (given | more).items()}


ERF_FORMS = [
    "d = Div(X, root2) e = Erf(d) a = Add(e, one) m = Mul(X, a) Y = Mul(m, half)",
    "d = Div(X, root2) e = Erf(d) a = Add(one, e) h = Mul(half, a) Y = Mul(X, h)",
    "d = Mul(half_root, X) e = Erf(d) a = Add(e, one) h = Mul(X, half) Y = Mul(h, a)",
    "d = Mul(X, half_root) e = Erf(d) a = Add(e, one) h = Div(X, two) Y = Mul(a, h)",
    "d = Div(X, root2) e = Erf(d) b = Mul(e, half) a = Add(b, half) Y = Mul(a, X)",
    "d = Div(X, root2) e = Erf(d) b = Mul(e, X) a = Add(b, X) Y = Div(a, two)",
    "d = Div(X, root2) n = Neg(d) m = Neg(n) e = Erf(m) a = Add(e, one) h = Mul(X, half) Y = Mul(h, a)",
]

TANH_FORMS = [
    "p = Pow(X, three) c = Mul(p, cubic) s = Add(X, c) i = Mul(s, outer) t = Tanh(i) a = Add(t, one) "
    "h = Mul(X, half) Y = Mul(h, a)",
    "q = Mul(X, X) p = Mul(q, X) c = Mul(cubic, p) s = Add(c, X) i = Mul(outer, s) t = Tanh(i) a = Add(one, t) "
    "m = Mul(X, a) Y = Mul(half, m)",
    "k = Mul(cubic, X) l = Mul(X, k) p = Mul(X, l) s = Add(X, p) i = Mul(outer, s) t = Tanh(i) a = Add(one, t) "
    "m = Mul(half, a) Y = Mul(X, m)",
    "q = Mul(X, X) k = Mul(q, cubic) l = Add(k, one) o = Mul(X, outer) i = Mul(o, l) t = Tanh(i) a = Add(t, one) "
    "h = Mul(a, half) Y = Mul(h, X)",
]


@pytest.mark.parametrize("form", ERF_FORMS)
def test_the_exact_form_in_every_order(form):
    after = SIGNATURE + ' { Y = Gelu <approximate = "none"> (X) }'
    check_pass(PASS, f"{SIGNATURE} {{ {form} }}", after, weights=numbers(), counts={"rewritten": 1})


@pytest.mark.parametrize("form", TANH_FORMS)
def test_the_approximation_in_every_order(form):
    after = SIGNATURE + ' { Y = Gelu <approximate = "tanh"> (X) }'
    check_pass(PASS, f"{SIGNATURE} {{ {form} }}", after, weights=numbers(), counts={"rewritten": 1})


def test_constants_of_rank_one_and_rounded_constants():
    given = numbers(root2=[1.4142135], half=[[0.5]], outer=[0.7978845], one=[1.0])
    check_pass(PASS, f"{SIGNATURE} {{ {ERF_FORMS[0]} }}", weights=given, ops={"Gelu": 1})
    check_pass(PASS, f"{SIGNATURE} {{ {TANH_FORMS[0]} }}", weights=given, ops={"Gelu": 1})


def test_a_sum_is_its_input():
    text = f"g (float[N,5] A, float[5] B) => (float[N,5] Y) {{ X = Add(A, B)  {TANH_FORMS[1]} }}"
    check_pass(PASS, text, weights=numbers(), ops={"Add": 1, "Gelu": 1})
    scaled = f"g (float[N,5] A) => (float[N,5] Y) {{ X = Mul(A, three)  {ERF_FORMS[2]} }}"
    check_pass(PASS, scaled, weights=numbers(), ops={"Mul": 1, "Gelu": 1})


def test_half_precision_constants_are_compared_as_such():
    text = f"{SIGNATURE} {{ {ERF_FORMS[0]} }}".replace("float[", "float16[")
    given = numbers(np.float16)
    check_pass(PASS, text, weights=given, ops={"Gelu": 1}, tol=Tolerance.uniform(5e-3))


def test_double_precision_constants_are_exact():
    text = f"{SIGNATURE} {{ {ERF_FORMS[0]} }}".replace("float[", "double[")
    reason = "the argument of Erf is not x / sqrt(2)"
    check_declines(PASS, text, reason, weights=numbers(np.float64, root2=1.4142135))
    model = model_of(text, numbers(np.float64))
    PASS.run(model.graph, PassContext(model))
    assert ops(model) == {"Gelu": 1}


def test_what_comes_behind_stays():
    text = f"g (float[N,5] X) => (float[N,5] Z) {{ {ERF_FORMS[0]}  Z = Mul(Y, three) }}"
    check_pass(PASS, text, weights=numbers(), ops={"Gelu": 1, "Mul": 1})


def test_other_constants():
    text = f"{SIGNATURE} {{ {ERF_FORMS[0]} }}"
    check_declines(PASS, text, "the argument of Erf is not x / sqrt(2)", weights=numbers(root2=1.4142))
    reason = "what follows the Erf is not x/2 * (1 + result)"
    check_declines(PASS, text, reason, weights=numbers(half=0.25))
    check_declines(PASS, text, reason, weights=numbers(one=1.001))
    other = text.replace("[N,5] X", "[N,5] X, float[N,5] Z").replace("Mul(X, a)", "Mul(Z, a)")
    check_declines(PASS, other, reason, weights=numbers())


def test_a_constant_that_adds_an_axis():
    text = f"{SIGNATURE} {{ {ERF_FORMS[0]} }}".replace("[N,5] Y", "[1,N,5] Y")
    reason = "what follows the Erf is not x/2 * (1 + result)"
    check_declines(PASS, text, reason, weights=numbers(half=[[[0.5]]]))


@pytest.mark.parametrize("name", ["d", "e", "a", "m"])
def test_results_in_the_middle_that_the_user_asked_for(name):
    text = f"g (float[N,5] X) => (float[N,5] Y, float[N,5] {name}) {{ {ERF_FORMS[0]} }}"
    given = model_of(text, numbers())
    context = PassContext(given)
    PASS.run(given.graph, context)
    assert ops(given)["Gelu"] == 0
    assert sum(context.misses.values()) == 1


def test_a_result_that_a_branch_captures():
    text = (
        f"g (float[N,5] X, bool B) => (float[N,5] Y, float[N,5] Z) {{ {ERF_FORMS[0]}  "
        "Z = If (B) <then_branch = t () => (float[N,5] z) { z = Neg(a) }, "
        "else_branch = f () => (float[N,5] z) { z = Neg(X) }> }"
    )
    check_declines(PASS, text, "an intermediate result is used elsewhere or is an output", weights=numbers())


def test_inside_a_branch():
    text = (
        "g (float[N,5] X, bool B) => (float[N,5] Z) { Z = If (B) <"
        f"then_branch = t () => (float[N,5] Y) {{ {ERF_FORMS[0]} }}, "
        "else_branch = f () => (float[N,5] z) { z = Neg(X) }> }"
    )
    sample = {"X": np.ones((2, 5), np.float32), "B": np.array(True)}
    check_pass(PASS, text, weights=numbers(), ops={"If": 1, "Gelu": 1, "Neg": 1}, inputs=sample)


def test_older_opsets_have_no_gelu():
    header = '<ir_version: 8, opset_import: ["" : 19]> '
    check_declines(PASS, f"{header}{SIGNATURE} {{ {ERF_FORMS[0]} }}", "opset below 20", weights=numbers())


def test_other_uses_of_tanh_are_no_near_miss():
    check_declines(PASS, f"{SIGNATURE} {{ a = Add(X, one) Y = Tanh(a) }}", weights=numbers())
