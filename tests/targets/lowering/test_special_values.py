"""Zeros of both signs, infinities, NaN and the ends of integers, through operators that compilers like to simplify."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from tests.targets.lowering.support import check_for_machine, run_for_machine

SPECIAL = np.array(
    [0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 3e38, -3e38, 1e-40, np.inf, -np.inf, np.nan, 7.0, 65505.0, 2.0**40, 1e-3],
    np.float32,
)


def float_model(body: str, results: str, *, opset: int = 17, weights: str = "") -> str:
    return f"""<ir_version: 8, opset_import: ["" : {opset}]>
        g (float[N] x) => ({results}) <{weights}> {{ {body} }}"""


def bits(text: str, values: np.ndarray = SPECIAL) -> None:
    """Every output, bit for bit but for the payload of NaN, also for a number of elements that fills no vector."""
    for given in (values, values[:7], values[-1:], values[:0]):
        check_for_machine(text, {"x": given}, tolerance=0)
        for have in run_for_machine(text, {"x": given})[0]:
            assert isinstance(have, np.ndarray)


def signs(text: str, wanted: list[float]) -> None:
    (result,) = run_for_machine(text, {"x": SPECIAL[:2]})[0]
    assert np.signbit(result).tolist() == [np.signbit(value) for value in wanted]


ZEROS = "float z = {0}, float n = {-0.0}, float[1] v = {0}"


@pytest.mark.parametrize(
    "product",
    [
        "Mul(x, z)",
        "Mul(z, x)",
        "Mul(x, n)",
        "Mul(x, v)",
        "Div(z, x)",
        "Div(x, z)",
        "Div(x, n)",
        "Div(x, x)",
        "Sub(x, x)",
    ],
)
def test_zero_times_anything_is_what_ieee_says(product: str) -> None:
    bits(float_model(f"y = {product}", "float[N] y", weights=ZEROS))


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("a = Add(x, large)  y = Sub(a, large)", "float"),
        ("a = Add(large, x)  y = Sub(large, a)", "float"),
        ("a = Sub(large, x)  b = Add(a, x)  y = Sub(b, large)", "float"),
        ("a = Neg(x)  b = Neg(x)  y = Sub(a, b)", "float"),
        ("a = Neg(x)  b = Add(x, a)  y = Sub(a, b)", "float"),
        ("a = Cast<to = 11>(x)  b = Add(a, a)  c = Sub(b, a)  d = Sub(c, a)  y = Cast<to = 1>(d)", "float"),
        ("a = Neg(x)  b = Neg(x)  y = Equal(a, b)", "bool"),
        ("a = Neg(x)  b = Neg(x)  y = GreaterOrEqual(a, b)", "bool"),
        ("a = Neg(x)  b = Greater(a, x)  c = Less(a, x)  y = Or(b, c)", "bool"),
        ("a = Neg(x)  b = Greater(a, x)  c = Less(a, x)  d = Or(b, c)  y = Not(d)", "bool"),
    ],
)
def test_sums_are_rounded_before_they_are_taken_apart_again(body: str, kind: str) -> None:
    bits(float_model(body, f"{kind}[N] y", weights="float large = {1e8}"))


@pytest.mark.parametrize(
    ("result", "wanted"),
    [
        ("Mul(x, z)", [0.0, -0.0]),
        ("Mul(x, n)", [-0.0, 0.0]),
        ("Add(x, z)", [0.0, 0.0]),
        ("Add(x, n)", [0.0, -0.0]),
        ("Sub(x, z)", [0.0, -0.0]),
    ],
)
def test_the_sign_of_zero(result: str, wanted: list[float]) -> None:
    signs(float_model(f"y = {result}", "float[N] y", weights=ZEROS), wanted)


def test_nan_is_true_and_not_equal_to_itself() -> None:
    bits(
        float_model(
            """b = Cast<to = 9>(x)  e = Equal(x, x)  n = Not(e)
            l = Less(x, c)  nl = Not(l)  g = GreaterOrEqual(x, c)  ng = Not(g)  xo = Xor(l, g)  nb = Not(b)""",
            "bool[N] b, bool[N] n, bool[N] nl, bool[N] ng, bool[N] xo, bool[N] nb",
            weights="float c = {0.5}",
        )
    )


@pytest.mark.parametrize("dtype", ["float16", "double"])
def test_nan_of_other_types_is_true(dtype: str) -> None:
    values = SPECIAL.astype({"float16": np.float16, "double": np.float64}[dtype])
    text = f'<ir_version: 8, opset_import: ["" : 17]> g ({dtype}[N] x) => (bool[N] b) {{ b = Cast<to = 9>(x) }}'
    check_for_machine(text, {"x": values}, tolerance=0)


def test_bfloat16_is_rounded_where_it_would_be_stored() -> None:
    """To nearest, halves to even, also where no bfloat16 is stored because the two conversions are one kernel."""
    rng = np.random.default_rng(0)
    halves = (rng.integers(0, 1 << 15, 64).astype(np.uint32) << 16 | 0x8000).view(np.float32)
    values = np.concatenate([SPECIAL, halves, rng.standard_normal(57).astype(np.float32)])
    text = float_model("b = Cast<to = 16>(x)  y = Cast<to = 1>(b)", "float[N] y")
    (result,) = run_for_machine(text, {"x": values})[0]
    with np.errstate(all="ignore"):
        wanted = values.astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(result, wanted)
    assert np.array_equal(np.signbit(result[:2]), [False, True])


def test_one_bfloat16_for_many() -> None:
    text = """<ir_version: 10, opset_import: ["" : 18]> g (bfloat16[1] x) => (bfloat16[2,6] y)
        <int64[2,6] i = {-1,-1,0,0,0,-1,-1,-1,0,0,0,-1}> { y = Gather<axis = -1>(x, i) }"""
    (result,) = run_for_machine(text, {"x": np.array([1.5], ml_dtypes.bfloat16)})[0]
    np.testing.assert_array_equal(np.asarray(result, np.float32), np.full((2, 6), 1.5, np.float32))


def test_a_bound_of_clip_that_is_left_out_is_the_last_finite_number() -> None:
    bits(
        float_model(
            'a = Clip(x, "", hi)  b = Clip(x, lo)  c = Clip(x, hi, lo)  d = Clip(x)',
            "float[N] a, float[N] b, float[N] c, float[N] d",
            weights="float hi = {1}, float lo = {-1}",
        )
    )


def test_one_bound_of_clip_before_opset_11() -> None:
    bits(float_model("a = Clip<max = 1.0>(x)  b = Clip<min = -1.0>(x)", "float[N] a, float[N] b", opset=9))


def test_a_bound_of_clip_over_integers() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
        g (int64[N] i, uint8[N] u) => (int64[N] a, int64[N] b, uint8[N] c)
        <int64 low = {-2}, int64 high = {1099511627776}, uint8 top = {200}>
        { a = Clip(i, low, high)  b = Clip(i, low)  c = Clip(u, "", top) }"""
    ends = np.iinfo(np.int64)
    i = np.array([ends.min, ends.max, -3, -2, 0, 1 << 40, (1 << 40) + 1, 5], np.int64)
    check_for_machine(text, {"i": i, "u": np.array([0, 255, 200, 201, 199, 1, 2, 3], np.uint8)})


def test_a_slope_of_zero() -> None:
    for zero in ("0", "-0.0"):
        bits(float_model("y = PRelu(x, s)", "float[N] y", weights=f"float s = {{{zero}}}"))


@pytest.mark.parametrize("kind", ["int64", "int32"])
def test_integer_powers(kind: str) -> None:
    """Bases with integer powers for any exponent, and others as far as nothing overflows."""
    text = f'<ir_version: 8, opset_import: ["" : 15]> g ({kind}[N] a, {kind}[N] b) => ({kind}[N] p) {{ p = Pow(a, b) }}'
    a = [0, 0, 0, 1, 1, 1, -1, -1, -1, -1, 2, 3, -3, 7, 10, 5, -2, 2]
    b = [0, 64, 100, 0, 65, -3, 64, 65, -1, -2, 30, 0, 3, 5, 9, 1, 5, -1]
    check_for_machine(text, {"a": np.array(a, kind), "b": np.array(b, kind)})


@pytest.mark.parametrize("step", ["-1", "-3", "1", "4"])
def test_a_range_whose_bounds_are_known_when_it_runs(step: str) -> None:
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[S] x) => (int64[R] up, int64[Q] down)
        <int64 one = {{1}}, int64 minus = {{-1}}, int64 step = {{{step}}}, int64[1] first = {{0}}>
        {{ shape = Shape(x)  size = Gather(shape, one0)  last = Sub(size, one)
           up = Range(last, minus, step)  down = Range(minus, last, step) }}""".replace("one0", "zero").replace(
        "<int64 one", "<int64 zero = {0}, int64 one"
    )
    check_for_machine(text, *({"x": np.zeros(size, np.float32)} for size in (1, 5, 6, 7)))


def test_maxima_and_their_positions_at_any_width() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
        g (float[B,2,6,W] x) => (float[b,c,d,e] a, int64[b,c,d,e] ai, float[f,h,i,j] p, int64[f,h,i,j] pi)
        { a, ai = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(x)
          p, pi = MaxPool<kernel_shape = [3, 3], strides = [1, 2], pads = [1, 1, 1, 1], storage_order = 1>(x) }"""
    rng = np.random.default_rng(1)
    images = [
        rng.integers(-9, 9, (batch, 2, 6, width)).astype(np.float32) for batch, width in ((1, 5), (2, 16), (3, 31))
    ]
    check_for_machine(text, *({"x": image} for image in images), tolerance=0)


def test_nearest_of_opset_10_rounds_up_where_it_shrinks() -> None:
    text = """<ir_version: 5, opset_import: ["" : 10]>
        g (float[1,1,H,W] x) => (float[a,b,c,d] up, float[e,f,g,h] down, float[i,j,k,l] both, float[m,n,o,p] linear)
        <float[4] grow = {1, 1, 1.5, 2.3}, float[4] shrink = {1, 1, 0.6, 0.4}, float[4] mixed = {1, 1, 0.6, 1.5}>
        { up = Resize<mode = "nearest">(x, grow)  down = Resize<mode = "nearest">(x, shrink)
          both = Resize<mode = "nearest">(x, mixed)  linear = Resize<mode = "linear">(x, grow) }"""
    rng = np.random.default_rng(2)
    sizes = [(5, 7), (10, 16), (3, 33)]
    check_for_machine(text, *({"x": rng.standard_normal((1, 1, *size)).astype(np.float32)} for size in sizes))


@pytest.mark.parametrize("mode", ["align_corners", "half_pixel", "asymmetric", "pytorch_half_pixel"])
def test_linear_resize_of_open_sizes(mode: str) -> None:
    text = f"""<ir_version: 8, opset_import: ["" : 13]>
        g (float[1,2,H,W] x) => (float[a,b,c,d] y) <float[4] s = {{1, 1, 2.5, 1.7}}>
        {{ y = Resize<coordinate_transformation_mode = "{mode}", mode = "linear">(x, "", s) }}"""
    rng = np.random.default_rng(3)
    sizes = [(4, 5), (9, 20), (1, 6)]
    check_for_machine(text, *({"x": rng.standard_normal((1, 2, *size)).astype(np.float32)} for size in sizes))


def test_attributes_of_zero() -> None:
    """Times an infinity they are NaN, as ONNX Runtime has it, and a division by one compiles."""
    body = """l = LeakyRelu<alpha = 0.0>(x)  h = HardSigmoid<alpha = 0.0>(f)  s = Selu<gamma = 0.0>(x)
        e = Elu<alpha = 0.0>(x)  c = Celu<alpha = 0.0>(m)"""
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[N] x, float[N] f, float[N] m) => (float[N] l, float[N] h, float[N] s, float[N] e, float[N] c)
        {{ {body} }}"""
    negative = -np.abs(np.where(np.isfinite(SPECIAL) & (SPECIAL != 0), SPECIAL, 1))
    finite = np.where(np.isfinite(SPECIAL), SPECIAL, 1)
    check_for_machine(text, {"x": SPECIAL, "f": finite, "m": negative}, tolerance=0)


def test_the_scale_of_zeros() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N] x) => (uint8[N] y, float s, uint8 z)
        { y, s, z = DynamicQuantizeLinear(x) }"""
    check_for_machine(text, *({"x": np.array(x, np.float32)} for x in ([0, 0, 0], [0, 1, 2], [-3, 0, 5], [4, 4])))
    special = ([np.nan, 1, 2], [-1, 2, np.nan], [np.inf, 1, 2], [-np.inf, 1])
    check_for_machine(text, *({"x": np.array(x, np.float32)} for x in special))


@pytest.mark.parametrize("kind", ["float", "double"])
def test_floats_that_an_integer_cannot_hold(kind: str) -> None:
    """As ONNX Runtime converts them; to uint32 it depends on where in a vector they stand."""
    types = {"int8": 3, "uint8": 2, "int16": 5, "uint16": 4, "int32": 6, "int64": 7, "uint64": 13}
    body = " ".join(f"y_{name} = Cast<to = {number}>(x)" for name, number in types.items())
    outputs = ", ".join(f"{name}[N] y_{name}" for name in types)
    text = f"""<ir_version: 8, opset_import: ["" : 17]> g ({kind}[N] x) => ({outputs}) {{ {body} }}"""
    values = [np.nan, np.inf, -np.inf, 3e9, -3e9, 1e10, 1e19, -1e19, 2e19, 300, -1, -129, 70000, -40000, 2.0**31, 0.5]
    check_for_machine(text, {"x": np.array(values, np.float32 if kind == "float" else np.float64)})


def test_divisors_that_are_zero_in_part() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,5] x) => (float[N,5] y, float[N,5] z, float[P,5] w) <int64[4] pads = {1, 0, 0, 0}>
        { t = Trilu(x)  y = Div(t, t)  z = Reciprocal(t)  p = Pad(x, pads)  w = Div(p, p) }"""
    check_for_machine(text, {"x": np.arange(1, 21, dtype=np.float32).reshape(4, 5)})


def test_a_linear_resize_of_infinities() -> None:
    """Beyond the last pixel both neighbours are that pixel."""
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[1,1,1,4] x) => (float[1,1,1,6] y)
        <float[4] scales = {1.0, 1.0, 1.5, 1.5}> { y = Resize<mode = "linear">(x, , scales) }"""
    check_for_machine(text, {"x": np.array([1, 2, 3, -np.inf], np.float32).reshape(1, 1, 1, 4)})


def test_a_resize_of_infinities_along_an_open_axis_that_keeps_its_size() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[1,C,3,W] x) => (float[1,3,6,1] y)
        <int64[4] sizes = {1, 3, 6, 1}> { y = Resize<mode = "linear">(x, , , sizes) }"""
    x = np.arange(9, dtype=np.float32).reshape(1, 3, 3, 1)
    x[0, 1, 2], x[0, 2, 0] = np.inf, np.nan
    check_for_machine(text, {"x": x})


def test_a_sum_over_what_a_mask_selects() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N] x) => (float s) <float threshold = {0}>
        { m = Greater(x, threshold)  at = NonZero(m)  rows = Transpose(at)  chosen = GatherND(x, rows)
          s = ReduceSum<keepdims = 0>(chosen) }"""
    check_for_machine(text, *({"x": np.array(x, np.float32)} for x in ([-1, -2, -3], [1, -2, 3], [2])))


def test_a_reduction_inside_a_branch() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[B,4] x, bool c) => (float[p,q] y)
        { y = If(c)<then_branch = t () => (float[p,q] a) { a = Neg(x) },
                    else_branch = e () => (float[p,q] b) { b = ReduceSum<keepdims = 1>(x) }> }"""
    rng = np.random.default_rng(5)
    x = rng.standard_normal((3, 4)).astype(np.float32)
    check_for_machine(text, *({"x": x, "c": np.array(c)} for c in (True, False)))


def test_booleans_are_equal_or_not() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (bool[N] a, bool[N] b) => (bool[N] e, bool[N] n, bool[N] x)
        { e = Equal(a, b)  n = Not(e)  x = Xor(a, n) }"""
    a, b = np.array([0, 0, 1, 1] * 9, bool), np.array([0, 1, 0, 1] * 9, bool)
    check_for_machine(text, {"a": a, "b": b}, {"a": a[:3], "b": b[:3]})


@pytest.mark.parametrize(
    "attributes",
    ["kernel_shape = [2, 2]", "kernel_shape = [1, 3], dilations = [2, 2]", "kernel_shape = [2, 1], strides = [2, 2]"],
)
@pytest.mark.parametrize("results", ["y", "y, i"])
def test_a_window_of_infinities_below_zero(attributes: str, results: str) -> None:
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[1,16,8,9] x) => (float[1,16,A,B] y) {{ {results} = MaxPool<{attributes}>(x) }}"""
    x = np.random.default_rng(0).choice(np.float32([-np.inf, -3e38]), (1, 16, 8, 9), p=[0.8, 0.2])
    check_for_machine(text, {"x": x}, tolerance=0)


@pytest.mark.parametrize("reduction", ["add", "mul", "max", "min"])
@pytest.mark.parametrize("kind", ["float", "double"])
def test_scattered_nan(reduction: str, kind: str) -> None:
    text = f"""<ir_version: 8, opset_import: ["" : 18]> g ({kind}[N] x, {kind}[M] u) => ({kind}[N] y, {kind}[N] z)
        <int64[5] i = {{0, 1, 2, 2, 3}}, int64[5, 1] j = {{0, 1, 2, 2, 3}}>
        {{ y = ScatterElements<reduction = "{reduction}">(x, i, u)
          z = ScatterND<reduction = "{reduction}">(x, j, u) }}"""
    dtype = np.float32 if kind == "float" else np.float64
    x, u = np.array([np.nan, 1, np.nan, -np.inf, 2], dtype), np.array([5, np.nan, 3, np.nan, 7], dtype)
    check_for_machine(text, {"x": x, "u": u}, {"x": -x, "u": u[[2, 0, 1, 4, 3]]})


@pytest.mark.parametrize("reduction", ["add", "mul"])
def test_scattered_booleans(reduction: str) -> None:
    text = f"""<ir_version: 8, opset_import: ["" : 18]>
        g (bool[4] x, int64[6] i, int64[6,1] j) => (bool[4] y, bool[4] z) <bool[6] u = {{1, 0, 1, 0, 1, 0}}> {{
          y = ScatterElements<reduction = "{reduction}">(x, i, u)
          z = ScatterND<reduction = "{reduction}">(x, j, u) }}"""
    at = np.array([0, 1, 2, 3, 1, 0])
    check_for_machine(text, {"x": np.array([False, False, True, True]), "i": at, "j": at[:, None]})
