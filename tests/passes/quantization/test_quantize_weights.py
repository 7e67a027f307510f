"""quantize-weights and fuse-matmul-nbits: forms, sizes, errors, and that ONNX Runtime runs the results."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest

from graphopt import io
from graphopt.errors import PassError
from graphopt.passes.quantization.fuse_matmul_nbits import FuseMatmulNbits
from graphopt.passes.quantization.quantize_weights import QuantizeWeights
from graphopt.proof.oracle import Reference
from tests.helpers import check_declines, model_of
from tests.passes.quantization.measuring import OPSET, array, feeds, network, noise, random, run

PRODUCTS = {
    "conv": ("Conv<pads=[1,1,1,1]>(X, w, b)", {"w": (6, 24, 3, 3), "b": (6,)}, (2, 24, 5, 7)),
    "conv of one place": ("Conv(X, w)", {"w": (6, 40, 1, 1)}, (2, 40, 5, 7)),
    "conv along one axis": ("Conv(X, w)", {"w": (6, 24, 3)}, (2, 24, 9)),
    "grouped": ("Conv<group=2>(X, w)", {"w": (6, 12, 3, 3)}, (2, 24, 5, 7)),
    "depthwise": ("Conv<group=24>(X, w)", {"w": (24, 1, 3, 3)}, (2, 24, 5, 7)),
    "matmul": ("MatMul(X, w)", {"w": (70, 5)}, (3, 70)),
    "matmul of sequences": ("MatMul(X, w)", {"w": (70, 5)}, (2, 3, 70)),
    "batched matmul": ("MatMul(X, w)", {"w": (2, 70, 5)}, (2, 3, 70)),
    "gemm": ("Gemm<alpha=0.5>(X, w, b)", {"w": (70, 5), "b": (5,)}, (3, 70)),
    "transposed gemm": ("Gemm<transB=1>(X, w, b)", {"w": (5, 70), "b": (5,)}, (3, 70)),
}
ERRORS = {2: 0.7, 3: 0.25, 4: 0.14, 5: 0.07, 6: 0.03, 8: 0.01}


def case(name: str) -> tuple[Any, list[dict[str, np.ndarray]]]:
    body, shapes, data = PRODUCTS[name]
    model = network(f"Y = {body}", shapes, data)
    return model, feeds(3, X=data)


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize(("bits", "group", "symmetric"), [(4, 32, False), (8, 16, True), (4, 0, True), (3, 20, False)])
def test_products(name: str, bits: int, group: int, symmetric: bool) -> None:
    model, samples = case(name)
    changed, report = run(model, QuantizeWeights(bits=bits, group=group, symmetric=symmetric, least=1, few=0))
    assert report.counts["quantize-weights/products quantized"] == 1
    for optimize in (False, True):
        assert 0 < noise(model, changed, samples, optimize) < ERRORS[bits] + optimize * 0.02
    assert noise(model, changed, samples) > ERRORS[bits] / 30  # it is not a finer grid than was asked for


@pytest.mark.parametrize(
    ("body", "weights"),
    [
        ("Conv<group=8, pads=[1,1,1,1]>(X, w)", (8, 1, 3, 3)),
        ("Conv(X, w)", (8, 8, 1, 1)),
        ("Conv(X, w)", (8, 8, 2, 2)),
    ],
)
@pytest.mark.parametrize("options", ["", "bits=1 ", "group=4 power_of_two=true "])
def test_convolutions_that_sum_few_numbers_get_8_bits(body: str, weights: tuple[int, ...], options: str) -> None:
    model = network(f"Y = {body}", {"w": weights}, (2, 8, 7, 6))
    samples = feeds(3, X=(2, 8, 7, 6))
    errors = []
    for few in (32, 31):
        changed, _ = run(model, f"quantize-weights{{{options}least=1 few={few}}}")
        errors.append(noise(model, changed, samples))
        (stored,) = (node for node in changed.graph.nodes if node.op == "DequantizeLinear")
        alone = math.prod(weights[1:]) <= few
        assert (array(stored.inputs[0]).dtype == np.int8) is alone
        if alone:
            assert [array(value).shape for value in stored.inputs] == [weights, (8,)]
    assert errors[0] < 0.01
    assert (errors[1] > 3 * errors[0]) is (math.prod(weights[1:]) == 32)


@pytest.mark.parametrize("bits", ERRORS)
@pytest.mark.parametrize("symmetric", [False, True])
def test_bits_and_what_they_take(bits: int, symmetric: bool, tmp_path: Any) -> None:
    text = f"{OPSET} g (float[N,512] X) => (float[N,64] Y) {{ Y = MatMul(X, w) }}"
    model = model_of(text, random(0, w=(512, 64)))
    changed, _ = run(model, f"quantize-weights{{bits={bits} symmetric={symmetric}}},eliminate-dead".lower())
    samples = feeds(3, X=(3, 512))
    assert ERRORS[bits] / 4 < noise(model, changed, samples) < ERRORS[bits]
    io.save(changed, tmp_path / "small.onnx")
    stored = {2: 2, 3: 4, 4: 4}.get(bits, 8)
    per_group = 32 + (0 if symmetric else stored)
    expected = 512 * 64 * (stored + per_group / 32) / 8
    assert expected < (tmp_path / "small.onnx").stat().st_size < expected + 1000
    assert noise(changed, io.load(tmp_path / "small.onnx"), samples) == 0
    assert io.to_proto(changed).ir_version >= {2: 13, 4: 10, 8: 8}[stored]


def test_fewer_squared_errors_than_the_whole_range() -> None:
    model = model_of(f"{OPSET} g (float[N,256] X) => (float[N,64] Y) {{ Y = MatMul(X, w) }}", random(0, w=(256, 64)))
    samples = feeds(3, X=(20, 256))
    for symmetric in (False, True):
        passes = [QuantizeWeights(weights=how, symmetric=symmetric) for how in ("min-max", "mse")]
        errors = [noise(model, run(model, pass_)[0], samples) for pass_ in passes]
        assert errors[1] < 0.95 * errors[0]


def test_small_groups_keep_small_weights_beside_large_ones() -> None:
    """One large weight in each channel spoils a scale for the whole channel."""
    large = random(0, w=(256, 16))
    large["w"][0] = 20
    model = model_of(f"{OPSET} g (float[N,256] X) => (float[N,16] Y) {{ Y = MatMul(X, w) }}", large)
    samples = feeds(4, X=(3, 256))
    for feed in samples:
        feed["X"][:, 0] = 0
    errors = [
        noise(model, run(model, QuantizeWeights(group=group, weights="min-max"))[0], samples) for group in (0, 32)
    ]
    assert errors[1] < 0.5 * errors[0]


def test_two_bits_raise_the_opset_or_are_refused() -> None:
    text = """g (float[1,64] X) => (float[1,8] Y) <int64[2] flat = {0, -1}> {
        a = Cast<to=1>(X)  t = Transpose<perm=[1,0]>(a)  u = Transpose<perm=[1,0]>(t)
        s = Reshape(u, flat)  q = Unsqueeze(s, axes)  r = Squeeze(q, axes)  f = Flatten(r)  Y = MatMul(f, w) }"""
    constants = {**random(0, w=(64, 8)), "axes": np.array([0], np.int64)}
    model = model_of(f"{OPSET} {text}", constants)
    changed, _ = run(model, QuantizeWeights(bits=2))
    assert changed.opset == 25
    assert noise(model, changed, feeds(2, X=(1, 64))) < 0.8


@pytest.mark.parametrize("power_of_two", [False, True])
@pytest.mark.parametrize(("group", "columns"), [(32, 64), (0, 64), (48, 6)])
def test_binary_weights(group: int, columns: int, power_of_two: bool) -> None:
    """Each weight is the best scale for its group, or minus it; 2 bits are stored, or 4 for what ONNX Runtime needs."""
    weights = random(0, w=(70, columns))
    model = model_of(f"{OPSET} g (float[N,70] X) => (float[N,{columns}] Y) {{ Y = MatMul(X, w) }}", weights)
    options = QuantizeWeights(bits=1, group=group, power_of_two=power_of_two)
    changed, _ = run(model, options)
    (stored,) = (node for node in changed.graph.nodes if node.op == "DequantizeLinear")
    integers, scales = array(stored.inputs[0]), array(stored.inputs[1])
    assert str(integers.dtype) == ("int2" if columns % 4 == 0 else "int4")
    size = group or 70
    for first in range(0, 70, size):
        some = weights["w"][first : first + size]
        assert np.array_equal(integers[first : first + size].astype(int), np.where(some < 0, -1, 1))
        found, mean = scales.reshape(-1, columns)[first // size], np.abs(some).mean(0)
        if power_of_two:
            assert not (np.log2(found) % 1).any()
            assert (np.abs(found - mean) <= np.minimum(np.abs(2 * found - mean), np.abs(found / 2 - mean)) + 1e-6).all()
        else:
            np.testing.assert_allclose(found, mean, rtol=1e-5)
    samples = feeds(2, X=(3, 70))
    assert 0.3 < noise(model, changed, samples) < 0.8
    assert noise(changed, changed, samples, optimize=True) < 1e-2


def test_scales_that_are_powers_of_two() -> None:
    text = f"{OPSET} g (float[N,64] X) => (float[N,8] Y) {{ Y = MatMul(X, w) }}"
    model = model_of(text, random(0, w=(64, 8)))
    changed, _ = run(model, QuantizeWeights(power_of_two=True))
    (stored,) = (node for node in changed.graph.nodes if node.op == "DequantizeLinear")
    assert not (np.log2(array(stored.inputs[1])) % 1).any()
    samples = feeds(2, X=(3, 64))
    finer, _ = run(model, QuantizeWeights())
    assert noise(model, finer, samples) < noise(model, changed, samples) < 0.2


def test_an_opset_without_blocks_or_two_bits() -> None:
    text = "g (float[N,32] X) => (float[N,32] Y) { a = Upsample(X, s)  Y = MatMul(a, w) }"
    model = model_of(f'<ir_version: 7, opset_import: ["" : 9]> {text}', random(0, w=(32, 32), s=(2,)))
    with pytest.raises(PassError, match="opset 9 has no scales for blocks"):
        run(model, QuantizeWeights())
    text = "g (float[N,32] X) => (float[N,32] Y) { a = mine.Blur(X)  Y = MatMul(a, w) }"
    function = '<domain: "mine", opset_import: ["" : 21]> Blur (x) => (y) { y = Relu(x) }'
    header = '<ir_version: 10, opset_import: ["" : 21, "mine" : 1]>'
    with pytest.raises(PassError, match="cannot be raised to opset 25"):
        run(model_of(f"{header} {text} {function}", random(0, w=(32, 32))), QuantizeWeights(bits=2))


@pytest.mark.parametrize("group", [16, 0])
def test_tables_are_looked_up_as_integers(group: int) -> None:
    text = f"{OPSET} g (int64[N,T] i) => (float[N,T,40] Y) {{ Y = Gather(table, i) }}"
    model = model_of(text, random(0, table=(50, 40)))
    samples = [{"i": np.random.default_rng(0).integers(-50, 50, (2, 7))}]
    with pytest.raises(PassError, match="no weights to quantize"):
        run(model, QuantizeWeights())
    changed, report = run(model, QuantizeWeights(embeddings=True, group=group))
    assert report.counts["quantize-weights/tables quantized"] == 1
    assert Counter(node.op for node in changed.graph.nodes) == {"Gather": 2, "DequantizeLinear": 1}
    assert 0 < noise(model, changed, samples) < 0.01


def test_weights_that_two_nodes_read_are_stored_once() -> None:
    text = f"{OPSET} g (float[N,32] X) => (float[N,32] Y) {{ a = MatMul(X, w)  b = Relu(a)  Y = MatMul(b, w) }}"
    changed, report = run(model_of(text, random(0, w=(32, 32))), QuantizeWeights())
    assert report.counts["quantize-weights/products quantized"] == 2
    one, other = (node for node in changed.graph.nodes if node.op == "MatMul")
    assert one.inputs[1] is other.inputs[1]


@pytest.mark.parametrize(
    ("body", "shapes", "options", "reason"),
    [
        ("MatMul(X, X)", {}, {}, "MatMul: its weights are not constant"),
        ("MatMul(X, w)", {"w": (32,)}, {}, "MatMul: its weights are a vector"),
        ("MatMul(X, w)", {"w": (32, 2)}, {}, "MatMul: it has few weights"),
        ("MatMul(X, w)", {"w": (32, 32)}, {"ignore": ("MatMul",)}, "MatMul: it is to be left alone"),
        ("Relu(X)", {}, {}, "no convolution or matmul"),
    ],
)
def test_nothing_to_quantize(body: str, shapes: Any, options: Any, reason: str) -> None:
    rank = "A" if shapes.get("w") == (32,) else "A,B"
    model = model_of(f"{OPSET} g (float[32,32] X) => (float[{rank}] Y) {{ Y = {body} }}", random(0, **shapes))
    with pytest.raises(PassError, match=f"no weights to quantize .*{reason}"):
        run(model, QuantizeWeights(**options))


@pytest.mark.parametrize(
    "options",
    [{"bits": 0}, {"bits": 9}, {"group": 1}, {"few": -1}, {"weights": "entropy"}, {"ignore": ("re:(",)}],
)
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must|no regular"):
        QuantizeWeights(**options)


@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("symmetric", ["true", "false"])
@pytest.mark.parametrize("group", [16, 32, 0])
def test_products_become_matmul_nbits(bits: int, symmetric: str, group: int) -> None:
    text = f"{OPSET} g (float[N,70] X) => (float[N,9] Y) {{ a = MatMul(X, w)  Y = Gemm<transB=1>(a, v, b) }}"
    model = model_of(text, random(0, w=(70, 33), v=(9, 33), b=(9,)))
    samples = feeds(2, X=(3, 70))
    changed, _ = run(model, f"quantize-weights{{bits={bits} group={group} symmetric={symmetric}}},eliminate-dead")
    fused, report = run(changed, FuseMatmulNbits(accuracy_level=1))
    assert report.counts == {"fuse-matmul-nbits/rewritten": 2}
    assert [node.op for node in fused.graph.nodes] == ["com.microsoft::MatMulNBits"] * 2
    for optimize in (False, True):
        assert noise(changed, fused, samples, optimize) < 1e-5
    fast, _ = run(changed, FuseMatmulNbits())
    assert noise(changed, fast, samples, optimize=True) < 0.03


def test_the_default_zero_point_is_not_stored() -> None:
    model, _ = case("matmul")
    fused, _ = run(model, "quantize-weights{symmetric=true},fuse-matmul-nbits")
    (node,) = fused.graph.nodes
    assert len(node.inputs) == 3
    assert array(node.inputs[1]).dtype == np.uint8
    assert array(node.inputs[1]).shape == (5, 3, 16)


@pytest.mark.parametrize("options", ["group=20", "group=512"])
def test_products_that_do_not_fit_matmul_nbits(options: str) -> None:
    model = model_of(f"{OPSET} g (float[N,600] X) => (float[N,5] Y) {{ Y = MatMul(X, w) }}", random(0, w=(600, 5)))
    changed, _ = run(model, f"quantize-weights{{{options}}},eliminate-dead")
    check_declines(FuseMatmulNbits(), changed, "the size of a block is no power of two from 16 to 256")


def test_scaled_products_and_other_scales_do_not_fit() -> None:
    text = f"{OPSET} g (float[N,64] X) => (float[N,5] Y) {{ Y = Gemm<alpha=0.5>(X, w) }}"
    changed, _ = run(model_of(text, random(0, w=(64, 5))), "quantize-weights,eliminate-dead")
    check_declines(
        FuseMatmulNbits(), changed, "the product is scaled or transposed, or its bias is no vector of constants"
    )
    text = f"""{OPSET} g (float[N,4] X) => (float[N,5] Y) {{
        w = DequantizeLinear<axis=0>(q, s)  Y = MatMul(X, w) }}"""
    constants = {"q": np.ones((4, 5), np.int8), "s": np.ones(4, np.float32)}
    check_declines(FuseMatmulNbits(), model_of(text, constants), "the scales are not those of blocks of rows")


def test_onnx_runtime_makes_matmul_nbits_of_the_standard_form_itself(tmp_path: Any) -> None:
    import onnxruntime

    text = f"{OPSET} g (float[N,64] X) => (float[N,32] Y) {{ a = MatMul(X, w)  Y = Gemm<transB=1>(a, v, b) }}"
    changed, _ = run(model_of(text, random(0, w=(64, 32), v=(32, 32), b=(32,))), "quantize-weights,eliminate-dead")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(io.to_proto(changed).SerializeToString(), options)
    found = Counter(node.op_type for node in io.load(tmp_path / "optimized.onnx").graph.nodes)
    assert found["MatMulNBits"] == 2
    with Reference(changed) as reference:
        assert reference.run(feeds(1, X=(1, 64))[0])["Y"].shape == (1, 32)
