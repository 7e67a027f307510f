"""Operators at odd shapes and edge values, each against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.errors import UnsupportedError
from tests.targets.lowering.support import check, check_for_machine, lowered, noise


@pytest.mark.parametrize("op", ["Max", "Min", "Relu", "Clip"])
def test_nan_is_kept(op: str) -> None:
    x = np.array([np.nan, -1, 2, np.inf, -np.inf], np.float32)
    y = np.array([0, np.nan, 1, 1, 1], np.float32)
    body = {"Max": "Max(x, y)", "Min": "Min(x, y)", "Relu": "Relu(x)", "Clip": "Clip(x, lo, hi)"}[op]
    check(
        f"g (float[5] x, float[5] y) => (float[5] z) <float lo = {{-0.5}}, float hi = {{1.5}}> {{ z = {body} }}",
        {"x": x, "y": y},
    )


def test_integer_division_goes_towards_zero() -> None:
    x, y = np.array([7, -7, 7, -7, 0], np.int32), np.array([2, 2, -2, -2, 3], np.int32)
    check("g (int32[5] x, int32[5] y) => (int32[5] z) { z = Div(x, y) }", {"x": x, "y": y})


def test_clip_of_float16_in_an_old_opset_lets_infinities_through() -> None:
    x = np.array([np.inf, -np.inf, np.nan, 1], np.float16)
    header = '<ir_version: 7, opset_import: ["": 8]>'
    check(f"{header} g (float16[4] x) => (float16[4] z) {{ z = Clip <min = 0.0> (x) }}", {"x": x})


@pytest.mark.parametrize("fmod", [0, 1])
def test_remainders_take_the_sign_they_should(fmod: int) -> None:
    x, y = np.array([7, -7, 7, -7], np.int64), np.array([3, 3, -3, -3], np.int64)
    check(f"g (int64[4] x, int64[4] y) => (int64[4] z) {{ z = Mod <fmod = {fmod}> (x, y) }}", {"x": x, "y": y})


@pytest.mark.parametrize(
    ("starts", "ends", "steps"),
    [
        *(("1", "9223372036854775807", "2"), ("-1", "-9223372036854775808", "-1"), ("-3", "-1", "1"), ("6", "1", "-2")),
        *(("-9", "-9223372036854775808", "-1"), ("-9", "3", "-1")),
    ],
)
def test_slices(starts: str, ends: str, steps: str) -> None:
    check(
        "g (float[N, 7] x) => (float[N, M] z)"
        f" <int64[1] s = {{{starts}}}, int64[1] e = {{{ends}}}, int64[1] a = {{1}}, int64[1] p = {{{steps}}}>"
        " { z = Slice(x, s, e, a, p) }",
        {"x": noise(3, 7)},
    )


@pytest.mark.parametrize("start", [-12, -9, -7, -2147483648, 0, 12, 9223372036854775807])
@pytest.mark.parametrize(("end", "step"), [(-9223372036854775808, -1), (-12, -3), (0, -1), (2, -2)])
def test_slices_backwards_begin_at_the_first_element_at_the_earliest(start: int, end: int, step: int) -> None:
    for size in ("N", "8"):
        text = f"""g (float[{size}, 2] x) => (float[M, 2] z)
            <int64[1] s = {{{start}}}, int64[1] e = {{{end}}}, int64[1] a = {{0}}, int64[1] p = {{{step}}}>
            {{ z = Slice(x, s, e, a, p) }}"""
        check(text, *({"x": noise(n, 2)} for n in ((0, 1, 3, 8, 9) if size == "N" else (8,))))


def test_slice_of_a_dynamic_axis_is_clamped() -> None:
    text = """g (float[N] x) => (float[M] z) <int64[1] s = {-5}, int64[1] e = {100}, int64[1] a = {0}>
        { z = Slice(x, s, e, a) }"""
    check(text, *({"x": noise(n)} for n in (2, 5, 9)))


@pytest.mark.parametrize("start", ["-5", "-9223372036854775808", "2"])
def test_slice_backward_from_before_a_dynamic_axis(start: str) -> None:
    text = f"""g (float[N] x) => (float[M] z) <int64[1] s = {{{start}}}, int64[1] e = {{-9223372036854775808}},
        int64[1] a = {{0}}, int64[1] p = {{-1}}> {{ y = Slice(x, s, e, a, p)  z = Concat <axis = 0> (y, y, x) }}"""
    check(text, *({"x": noise(n)} for n in (1, 2, 5, 9, 0)))


@pytest.mark.parametrize("axis", range(-3, 4))
def test_flattened_from_either_end(axis: int) -> None:
    """Computed here where the operand is known, and by a kernel where it is not."""
    numbers = ", ".join(map(str, range(24)))
    text = f"""g (float[2,3,4] x) => (float[A,B] y, int32[C,D] z) <int32[2,3,4] w = {{{numbers}}}>
        {{ y = Flatten <axis = {axis}> (x)  z = Flatten <axis = {axis}> (w) }}"""
    check(text, {"x": noise(2, 3, 4)})


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
def test_padding_modes(mode: str) -> None:
    text = f"""g (float[2, N] x) => (float[2, M] z) <int64[4] p = {{0, 2, 0, 3}}>
        {{ z = Pad <mode = "{mode}"> (x, p) }}"""
    check(text, {"x": noise(2, 5)}, {"x": noise(2, 9)})


def test_negative_padding_cuts() -> None:
    text = "g (float[2, 6] x) => (float[2, M] z) <int64[4] p = {0, -1, 0, 2}> { z = Pad(x, p) }"
    check(text, {"x": noise(2, 6)})


@pytest.mark.parametrize("include", [0, 1])
@pytest.mark.parametrize("ceil", [0, 1])
def test_average_pooling_counts(include: int, ceil: int) -> None:
    text = f"""g (float[1, 3, H, 8] x) => (float[1, 3, A, B] z) {{ z = AveragePool <kernel_shape = [3, 3],
        strides = [2, 2], pads = [1, 0, 1, 1], count_include_pad = {include}, ceil_mode = {ceil}> (x) }}"""
    check(text, {"x": noise(1, 3, 7, 8)}, {"x": noise(1, 3, 10, 8)})


def test_max_pooling_in_ceil_mode_with_indices() -> None:
    text = """g (float[2, 3, 7, 8] x) => (float[2, 3, A, B] z, int64[2, 3, A, B] i)
        { z, i = MaxPool <kernel_shape = [3, 2], strides = [2, 3], pads = [1, 1, 1, 0], ceil_mode = 1> (x) }"""
    check(text, {"x": noise(2, 3, 7, 8)})


@pytest.mark.parametrize("op", ["AveragePool", "LpPool", "MaxPool"])
@pytest.mark.parametrize("ceil", [0, 1])
def test_dilated_pooling_with_automatic_padding(op: str, ceil: int) -> None:
    """ONNX Runtime pads for the window without its dilation, and gives fewer rows than ONNX's inference expects."""
    text = f"""g (float[1, 3, H, 8] x) => (float[1, 3, A, B] z) {{ z = {op} <kernel_shape = [3, 3], ceil_mode = {ceil},
        strides = [2, 2], dilations = [2, 1], auto_pad = "SAME_LOWER"> (x) }}"""
    check(text, {"x": noise(1, 3, 7, 8)}, {"x": noise(1, 3, 10, 8)})


@pytest.mark.parametrize("op", ["AveragePool", "LpPool", "MaxPool"])
def test_pooling_windows_longer_than_the_data(op: str) -> None:
    text = f"""g (float[1, 3, 2, 4] x) => (float[1, 3, A, B] z)
        {{ z = {op} <kernel_shape = [3, 6], strides = [2, 3]> (x) }}"""
    check(text, {"x": noise(1, 3, 2, 4)})


def test_windows_longer_than_padded_data_are_named() -> None:
    body = "{ h = MaxPool <kernel_shape = [5], pads = [1,0]> (x)  z = Relu(h) }"
    with pytest.raises(UnsupportedError, match=r"a window of 5 over data of 2 with padding of 1 and 0.*MaxPool 'h'"):
        lowered(f"g (float[1,1,2] x) => (float[A,B,C] z) {body}")


@pytest.mark.parametrize("pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_convolution_with_automatic_padding(pad: str) -> None:
    text = f"""g (float[N, 4, H, 9] x, float[6, 2, 3, 2] w, float[6] b) => (float[N, 6, A, B] z)
        {{ z = Conv <group = 2, strides = [2, 1], auto_pad = "{pad}"> (x, w, b) }}"""
    weights = {"w": noise(6, 2, 3, 2, seed=1), "b": noise(6, seed=2)}
    text = text.replace(", float[6, 2, 3, 2] w, float[6] b", "")
    check(text, {"x": noise(2, 4, 7, 9)}, {"x": noise(1, 4, 8, 9)}, weights=weights)


@pytest.mark.parametrize(
    ("data", "kernel", "attributes"),
    [
        ((11, 1), (3, 1), "pads = [1, 0, 2, 0], strides = [2, 1]"),
        ((1, 11), (1, 3), "dilations = [1, 2]"),
        ((1, 1), (1, 1), "strides = [2, 2]"),
        ((11, 1), (3, 1), "pads = [0, 1, 0, 1]"),  # the padding makes the axis of size 1 one of size 3
        ((1, 7, 1), (1, 3, 1), "group = 2"),
    ],
)
def test_convolution_over_axes_of_size_one(data: tuple[int, ...], kernel: tuple[int, ...], attributes: str) -> None:
    sizes = ", ".join(map(str, data))
    outputs = ", ".join("ABC"[: len(data)])
    text = f"g (float[N, 4, {sizes}] x) => (float[N, 6, {outputs}] z) {{ z = Conv <{attributes}> (x, w, b) }}"
    depth = 2 if "group" in attributes else 4
    weights = {"w": noise(6, depth, *kernel, seed=1), "b": noise(6, seed=2)}
    check(text, {"x": noise(2, 4, *data)}, {"x": noise(1, 4, *data)}, weights=weights)


@pytest.mark.parametrize(
    "attributes",
    [
        "strides = [2, 2], output_padding = [1, 0]",
        "group = 2, pads = [1, 0, 0, 1], dilations = [2, 1]",
        "strides = [3, 2], output_shape = [14, 12]",
        'strides = [2, 2], auto_pad = "SAME_LOWER"',
        'strides = [5, 2], auto_pad = "SAME_UPPER", output_padding = [1, 0]',
        "strides = [5, 3], pads = [1, 2, 0, 1]",
        "strides = [2, 3], dilations = [1, 2], output_padding = [1, 2]",
    ],
)
def test_transposed_convolution(attributes: str) -> None:
    text = f"""g (float[2, 4, 5, 6] x) => (float[2, C, A, B] z) {{ z = ConvTranspose <{attributes}> (x, w) }}"""
    check(text, {"x": noise(2, 4, 5, 6)}, weights={"w": noise(4, 3, 3, 3, seed=1)})


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("coordinates", ["half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"])
def test_resizing(mode: str, coordinates: str) -> None:
    text = f"""g (float[1, 2, 5, 7] x) => (float[1, 2, A, B] z) <float[4] s = {{1.0, 1.0, 1.7, 0.6}}>
        {{ z = Resize <mode = "{mode}", coordinate_transformation_mode = "{coordinates}"> (x, , s) }}"""
    check(text, {"x": noise(1, 2, 5, 7)})


def test_resizing_to_the_size_of_another_tensor() -> None:
    text = """g (float[1, 2, H, W] x, float[1, 2, A, B] y) => (float[1, 2, A, B] z)
        <int64[1] two = {2}, int64[1] zero = {0}, int64[1] four = {4}> {
        s = Shape(y)  t = Shape(x)  hw = Slice(s, two, four, zero)  nc = Slice(t, zero, two, zero)
        sizes = Concat <axis = 0> (nc, hw)  r = Resize <mode = "linear"> (x, , , sizes)  z = Add(r, y) }"""
    inputs = ({"x": noise(1, 2, h, w), "y": noise(1, 2, 9, 6, seed=1)} for h, w in ((4, 3), (9, 6)))
    check(text, *inputs)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_softmax_along_any_axis(axis: int) -> None:
    check(f"g (float[3, N, 5] x) => (float[3, N, 5] z) {{ z = Softmax <axis = {axis}> (x) }}", {"x": noise(3, 4, 5)})


def test_layer_normalization_gives_its_statistics() -> None:
    text = """g (float[2, N, 6] x) => (float[2, N, 6] z, float[2, N, 1] m, float[2, N, 1] d)
        { z, m, d = LayerNormalization <axis = -1> (x, s, b) }"""
    check(text, {"x": noise(2, 3, 6)}, weights={"s": noise(6, seed=1), "b": noise(6, seed=2)})


@pytest.mark.parametrize("last", [0, 1])
def test_positions_of_equal_maxima(last: int) -> None:
    x = np.array([[1, 3, 3, 0], [2, 2, 2, 2]], np.float32)
    text = f"""g (float[2, 4] x) => (int64[2] z, int64[2, 1] y) {{
        z = ArgMax <axis = 1, keepdims = 0, select_last_index = {last}> (x)
        y = ArgMin <axis = 1, select_last_index = {last}> (x) }}"""
    check(text, {"x": x})


@pytest.mark.parametrize("largest", [0, 1])
def test_top_k_keeps_the_order_of_equals(largest: int) -> None:
    x = np.array([[3, 1, 3, 2, 1], [0, 0, 0, 0, 0]], np.float32)
    text = f"""g (float[2, 5] x) => (float[2, 3] v, int64[2, 3] i) <int64[1] k = {{3}}>
        {{ v, i = TopK <largest = {largest}> (x, k) }}"""
    check(text, {"x": x})


def test_quantization_rounds_to_even_and_saturates() -> None:
    x = np.array([-300, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 126.5, 300], np.float32)
    text = """g (float[9] x) => (int8[9] q, float[9] d) <float s = {1.0}, int8 z = {1}>
        { q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z) }"""
    check(text, {"x": x})


def test_dynamic_quantization_of_zeros_and_of_numbers() -> None:
    text = """g (float[N] x) => (uint8[N] q, float s, uint8 z) { q, s, z = DynamicQuantizeLinear(x) }"""
    check(text, {"x": noise(7)}, {"x": np.abs(noise(5))})


def test_integer_products() -> None:
    text = """g (uint8[N, 6] x) => (int32[N, 5] z) <uint8 p = {3}> { z = MatMulInteger(x, w, p, q) }"""
    weights = {"w": noise(6, 5, dtype="int8", seed=1), "q": noise(5, dtype="int8", seed=2)}
    check(text, {"x": noise(4, 6, dtype="uint8")}, weights=weights)


@pytest.mark.parametrize("points", ["", ", p", ", p, one", ", p, q"])
@pytest.mark.parametrize("right", ["uint8", "int8"])
@pytest.mark.parametrize("left", ["uint8", "int8"])
def test_integer_products_of_all_signs(left: str, right: str, points: str) -> None:
    """With a zero point that is known only at run time too, and those of single columns."""
    text = f"""g ({left}[2, N, 7] x, {left} p0) => (int32[2, N, 5] z) {{
        p = Identity(p0)  z = MatMulInteger(x, w{points}) }}"""
    shapes = {"w": (7, 5), "q": (5,), "one": (1,)}
    weights = {name: noise(*shape, dtype=right, seed=len(shape)) for name, shape in shapes.items()}
    given = {"x": noise(2, 4, 7, dtype=left), "p0": noise(1, dtype=left, seed=5).reshape(())}
    check(text, given, weights=weights)
    check_for_machine(text, given, weights=weights)


@pytest.mark.parametrize("points", ["", ", p", ", p, one"])
@pytest.mark.parametrize("right", ["uint8", "int8"])
@pytest.mark.parametrize("left", ["uint8", "int8"])
@pytest.mark.parametrize(
    ("x", "w", "z"), [((2, 4, 7), (7, 5), (2, 4, 5)), ((2, 3, 33, 18), (2, 3, 18, 40), (2, 3, 33, 40))]
)
def test_integer_products_of_two_inputs(
    x: tuple[int, ...], w: tuple[int, ...], z: tuple[int, ...], left: str, right: str, points: str
) -> None:
    sizes = [",".join(map(str, shape)) for shape in (x, w, z)]
    text = f"""g ({left}[{sizes[0]}] x, {right}[{sizes[1]}] w) => (int32[{sizes[2]}] z) {{
        z = MatMulInteger(x, w{points}) }}"""
    weights = {"p": noise(1, dtype=left, seed=4).reshape(()), "one": noise(1, dtype=right, seed=5).reshape(())}
    used = {name: array for name, array in weights.items() if f", {name}" in points}
    given = {"x": noise(*x, dtype=left), "w": noise(*w, dtype=right, seed=2)}
    check(text, given, weights=used)
    check_for_machine(text, given, weights=used)


def test_scatter_writes_in_order() -> None:
    text = """g (float[3, 4] x, float[2, 4] u) => (float[3, 4] a, float[3, 4] b)
        <int64[2, 4] i = {0, 1, 2, 0, 2, 2, -3, 1}> {
        a = ScatterElements <axis = 0> (x, i, u)  b = ScatterElements <axis = 0, reduction = "add"> (x, i, u) }"""
    check(text, {"x": noise(3, 4), "u": noise(2, 4, seed=1)})


def test_gather_counts_from_the_end() -> None:
    text = """g (float[5, N] x, int64[2, 2] i) => (float[2, 2, N] z) { z = Gather <axis = 0> (x, i) }"""
    check(text, {"x": noise(5, 3), "i": np.array([[-1, 0], [-5, 4]])})


@pytest.mark.parametrize("equation", ["bij,bjk->bik", "...ij->...ji", "ij,ij->", "bhid,bhjd->bhij", "ii->i"])
def test_einsum(equation: str) -> None:
    ranks = [len(term.replace("...", "ab")) for term in equation.split("->")[0].split(",")]
    names = "xy"[: len(ranks)]
    declared = ", ".join(f"float[{','.join(['3'] * rank)}] {name}" for name, rank in zip(names, ranks))
    text = f'g ({declared}) => (float[...] z) {{ z = Einsum <equation = "{equation}"> ({", ".join(names)}) }}'
    text = text.replace("float[...]", "float")
    inputs = {name: noise(*[3] * rank, seed=i) for i, (name, rank) in enumerate(zip(names, ranks))}
    check(text, inputs)


def test_casts_follow_onnx_runtime() -> None:
    x = np.array([-3.7, -0.2, 0, 0.2, 3.7, 300.9], np.float32)
    text = """g (float[6] x) => (int32[6] a, bool[6] b, float16[6] c, uint8[6] d) <float k = {0.0}> {
        a = Cast <to = 6> (x)  b = Cast <to = 9> (x)  c = Cast <to = 10> (x)  y = Max(x, k)
        i = Cast <to = 6> (y)  d = Cast <to = 2> (i) }"""
    check(text, {"x": x})


def test_non_zero_has_as_many_columns_as_there_are() -> None:
    text = "g (float[N, 4] x) => (int64[2, M] z) { z = NonZero(x) }"
    sparse = np.where(noise(5, 4) > 0.3, noise(5, 4), 0).astype(np.float32)
    check(text, {"x": sparse}, {"x": np.zeros((2, 4), np.float32)}, {"x": np.ones((1, 4), np.float32)})


def test_half_precision_is_accumulated_in_single() -> None:
    text = "g (float16[2, 300] x) => (float16[2, 5] z) { z = MatMul(x, w) }"
    check(text, {"x": noise(2, 300, dtype="float16")}, weights={"w": noise(300, 5, dtype="float16")}, tolerance=1e-3)


SPECIAL = np.array([np.nan, 0, -0.0, 1, -2, np.inf, -np.inf, 3], np.float32)


@pytest.mark.parametrize("op", ["Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"])
def test_the_opposite_of_a_comparison_with_nan_is_true(op: str) -> None:
    """Not `b <= a` for `not a < b`, as TVM would have it; nor once more in what becomes of the result."""
    other = np.array([np.nan, 0, 1, np.nan, -3, np.inf, 0, 3], np.float32)
    text = f"""g (float[8] x, float[8] y, bool[8] p) => (bool[8] a, bool[8] b, float[8] c, bool[8] d)
        {{ q = {op}(x, y)  a = Not(q)  b = Xor(q, p)  c = Where(a, x, y)  e = And(q, p)  d = Not(e) }}"""
    check(text, {"x": SPECIAL, "y": other, "p": np.array([1, 0, 1, 0] * 2, bool)})


@pytest.mark.parametrize("dtype", ["float", "double", "float16"])
def test_nan_is_true(dtype: str) -> None:
    kind = {"float": np.float32, "double": np.float64, "float16": np.float16}[dtype]
    nonzero = "  n = NonZero(x)" if dtype == "float" else ""  # of which ONNX Runtime has no other float kernel
    results = "bool[8] b, int64[A,B] n" if nonzero else "bool[8] b"
    check(f"g ({dtype}[8] x) => ({results}) {{ b = Cast <to = 9> (x){nonzero} }}", {"x": SPECIAL.astype(kind)})


def test_a_bound_that_is_left_out_is_the_largest_number() -> None:
    check(
        """g (float[8] x) => (float[8] a, float[8] b, float[8] c) <float one = {1}>
        { a = Clip(x, , one)  b = Clip(x, one)  c = Clip(x) }""",
        {"x": SPECIAL},
    )


@pytest.mark.parametrize("kind", ["int32", "int64"])
def test_powers_of_integers(kind: str) -> None:
    base = np.array([0, 1, -1, -1, 2, 3, -2, 2, 5, -1, -1, 1], kind)
    exponent = np.array([64, 100, 65, 64, 3, 0, 3, -1, -2, -1, -2, -64], kind)
    check(f"g ({kind}[N] x, {kind}[N] y) => ({kind}[M] z) {{ z = Pow(x, y) }}", {"x": base, "y": exponent})


@pytest.mark.parametrize("step", [-1, -2, -3, 1, 2, 3])
def test_ranges_of_open_ends_in_either_direction(step: int) -> None:
    """With a step that is known, and one that is not."""
    text = f"""g (float[N] x, int64 s) => (int64[A] a, int64[B] b)
        <int64[1] ax = {{0}}, int64 one = {{1}}, int64 step = {{{step}}}, int64 other = {{{-1 if step < 0 else 7}}}>
        {{ sh = Shape(x)  n = Squeeze(sh, ax)  last = Sub(n, one)
           a = Range(last, other, step)  b = Range(last, other, s) }}"""
    check(text, *({"x": noise(n), "s": np.array(step, np.int64)} for n in (5, 1, 6)))


@pytest.mark.parametrize("op", ["ReduceLogSum", "ReduceLogSumExp", "ReduceL2"])
@pytest.mark.parametrize("kind", ["int32", "int64"])
def test_reductions_of_integers_that_compute_in_floats(op: str, kind: str) -> None:
    if (op, kind) == ("ReduceLogSumExp", "int64"):
        pytest.skip("ONNX Runtime has no kernel")
    x = np.array([[3, 4, 12], [1, 1, 1]], kind)
    check(f"g ({kind}[2,3] x) => ({kind}[2,1] z) <int64[1] a = {{1}}> {{ z = {op}(x, a) }}", {"x": x})


@pytest.mark.parametrize("op", ["ReduceSum", "ReduceProd", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceSumSquare"])
def test_open_sizes_may_be_zero_where_they_are_reduced(op: str) -> None:
    text = f"""g (float[N,M] x) => (float[A] y, float z) <int64[1] a = {{0}}>
        {{ y = {op}<keepdims=0>(x, a)  z = {op}<keepdims=0>(x) }}"""
    sizes = [(2, 3), (3, 2)] if op in ("ReduceMax", "ReduceMin") else [(2, 3), (0, 3), (0, 0)]
    check(text, *({"x": noise(*shape)} for shape in sizes))


@pytest.mark.parametrize(
    "body",
    [
        "y = Identity(c)",
        "y = Tile(c, k)",
        "y = Clip(c, lo, hi)",
        "y = Softmax(c)",
        "y = MeanVarianceNormalization<axes=[0,1]>(c)",
        "y = Add(c, x)",
        "y = Transpose(c)",
    ],
)
def test_what_has_no_elements(body: str) -> None:
    """TVM cannot store a constant of that kind, and divides by its sizes."""
    text = f"""g (float[N,1] x) => (float[A,B] y)
        <float[3,0] c = {{}}, int64[2] k = {{2,2}}, float lo = {{0}}, float hi = {{1}}> {{ {body} }}"""
    check(text, {"x": noise(3, 1)})


@pytest.mark.parametrize(
    "body",
    [
        "z = BatchNormalization (x, s, s, s, s)",
        "z = Resize (x, , f)",
        "g, h = Split <axis = 2, num_outputs = 2> (x)  z = Relu (h)",
        "h = Softmax (x)  r = MatMul (h, t)  k = Concat <axis = 2> (r, x)  z = Exp (k)",
        "h = Relu (x)  z = ReduceSum <keepdims = 0> (h)",
    ],
)
def test_results_that_certainly_have_no_elements(body: str) -> None:
    text = f"""g (float[N,0,4] x, float[4,3] t, float[0] s) => (float z) <float[3] f = {{1,1,2}}> {{ {body} }}"""
    check(text, *({"x": noise(n, 0, 4), "t": noise(4, 3), "s": noise(0)} for n in (2, 1)))


def test_convolution_of_no_channels() -> None:
    text = """g (float[N,0,4] x) => (float z) <float[2,0,3] w = {}, float[2] b = {1, -2}>
        { z = Conv <pads = [1,1]> (x, w, b) }"""
    check(text, *({"x": noise(n, 0, 4)} for n in (2, 1)))


@pytest.mark.parametrize("zero", [0, 7, 255])
def test_quantized_special_values(zero: int) -> None:
    """Infinities and numbers beyond every integer become the ends of the range, NaN its lower end."""
    big = 2.0**31
    x = np.array([np.nan, np.inf, -np.inf, 1e30, -1e30, big, -big, 0.5, 1.5, -0.0, 254.5, 255.5, -7.5], np.float32)
    text = f"g (float[N] x) => (uint8[N] q) <float s = {{1.0}}, uint8 z = {{{zero}}}> {{ q = QuantizeLinear(x, s, z) }}"
    check_for_machine(text, {"x": np.tile(x, 5)})
