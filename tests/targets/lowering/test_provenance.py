"""Provenance of each kernel call: the layers that it computes, and their FLOPs."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import te, tirx

from graphopt.analysis.flops import count_flops
from graphopt.driver import optimizing as api
from graphopt.ir import Model
from graphopt.profiling.kernels import Kernel
from graphopt.targets.tvm.cpu.pipeline import Cpu
from graphopt.targets.tvm.cpu.schedule import schedule_function
from graphopt.targets.tvm.device import fuse_and_schedule
from graphopt.targets.tvm.lowering.lower import lower
from graphopt.targets.tvm.lowering.provenance import SCHEDULE, kernels
from graphopt.targets.tvm.machine import Machine, machine_of
from graphopt.targets.tvm.tir_passes.work import bytes_moved
from tests.helpers import model_of
from tests.targets.schedule.support import HOST, MACHINE, placeholder

BLOCKS = """thrice (float[1,8,9,9] x) => (float[1,8,9,9] y) {
    [one] a = Conv<kernel_shape = [3,3], pads = [1,1,1,1]>(x, w0, b0)
    [one_relu] b = Relu(a)
    [two] c = Conv<kernel_shape = [3,3], pads = [1,1,1,1]>(b, w1, b1)
    [two_relu] d = Relu(c)
    [three] e = Conv<kernel_shape = [3,3], pads = [1,1,1,1]>(d, w2, b2)
    [sum] y = Add(e, x)
}"""


def found(text: str, weights: dict[str, np.ndarray] | None = None, machine: Machine | None = MACHINE) -> list[Kernel]:
    lowered = lower(shaped(text, weights), machine)
    return kernels(fuse_and_schedule(lowered.mod, HOST, Cpu(machine_of(HOST))), lowered.layers)


def shaped(text: str, weights: dict[str, np.ndarray] | None = None) -> Model:
    """The model with every shape known, as the default passes leave it."""
    model, _ = api.optimize(model_of(text, weights), "infer-shapes")
    return model


def block_weights(channels: int = 8) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"w0": (channels, 8, 3, 3), "b0": (channels,), "w1": (8, channels, 3, 3), "b1": (8,)}
    shapes |= {"w2": (8, 8, 3, 3), "b2": (8,)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def test_equal_layers_share_a_function_and_keep_their_names() -> None:
    calls = found(BLOCKS, block_weights())
    assert len({call.function for call in calls}) < len(calls), "this test is about shared functions"
    of_layer = {name: [call for call in calls if name in call.layers] for name in ("one", "two", "sum")}
    assert all(of_layer.values())
    assert not {id(call) for call in of_layer["one"]} & {id(call) for call in of_layer["two"]}
    order = [calls.index(of_layer[name][0]) for name in ("one", "two", "sum")]
    assert order == sorted(order)
    assert {name for call in calls for name in call.layers} == {"one", "one_relu", "two", "two_relu", "three", "sum"}
    assert {op for call in of_layer["sum"] for op in call.operators} >= {"Add"}


@pytest.mark.parametrize("machine", [MACHINE, None])
def test_the_kernels_flops_are_those_of_the_model(machine: Machine | None) -> None:
    total = sum(count_flops(node) or 0 for node in shaped(BLOCKS, block_weights()).graph.nodes)
    calls = found(BLOCKS, block_weights(), machine)
    assert sum(call.flops or 0 for call in calls) == pytest.approx(total, abs=len(calls))
    heaviest = max(calls, key=lambda call: call.flops or 0)
    assert "Conv" in heaviest.operators
    assert (heaviest.flops or 0) > total / 4


def test_a_factor_of_channels_is_fused_whoever_else_multiplies_so() -> None:
    """Both products are one kernel until fusion, which takes only a factor that is a weight."""
    text = """factors (float[1,8,9,9] x, float[1,8,1,1] u) => (float[1,8,7,7] y, float[1,8,7,7] z) {
        [conv] a = Conv(x, w0)
        [constant] y = Mul(a, c)
        [computed] z = Mul(y, u)
    }"""
    weights = block_weights()
    calls = found(text, {"w0": weights["w0"], "c": weights["b0"].reshape(1, 8, 1, 1)})
    assert [call.layers for call in calls] == [("conv", "constant"), ("computed",)]


def test_both_operands_of_a_sum_of_quantized_products_are_stored_as_integers() -> None:
    text = """residual (float[1,8,9,9] x) => (uint8[1,8,7,7] y) {
        [one] a = Conv(x, w0)
        [one_q] aq = QuantizeLinear(a, scale, zero)
        [one_dq] ad = DequantizeLinear(aq, scale, zero)
        [two] b = Conv(x, w1)
        [two_q] bq = QuantizeLinear(b, scale, zero)
        [two_dq] bd = DequantizeLinear(bq, scale, zero)
        [sum] c = Add(ad, bd)
        [sum_q] y = QuantizeLinear(c, scale, zero)
    }"""
    weights = {name: array for name, array in block_weights().items() if name in ("w0", "w1")}
    scale = {"scale": np.float32(0.1).reshape(()), "zero": np.uint8(3).reshape(())}
    calls = found(text, weights | scale)
    assert len(calls) == 2
    # Both become floats where they are added. (Processors without dot products of bytes store wider integers.)
    assert {"one_dq", "two_dq", "sum"} <= set(calls[-1].layers)


def test_open_sizes_leave_work_unknown() -> None:
    for call in found("open (float[N,16] x) => (float[N,16] y) { [mul] t = Mul(x, x) [add] y = Add(t, x) }"):
        assert call.layers == ("mul", "add")
        assert call.flops is None
        assert call.bytes is None


def test_every_call_says_how_it_is_scheduled() -> None:
    assert all(call.schedule for call in found(BLOCKS, block_weights()))


def test_a_schedule_may_name_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    x = placeholder((64,))
    func = te.create_prim_func([x, te.compute((64,), lambda i: x[i] + 1.0, name="more")])
    assert str(schedule_function(func, MACHINE).attrs[SCHEDULE]) == "generic"

    def rule(func: tirx.PrimFunc, machine: Machine) -> tirx.PrimFunc:
        return func.with_attr(SCHEDULE, "plan 3x4")

    monkeypatch.setattr("graphopt.targets.tvm.cpu.schedule.CPU_RULES", (rule,))
    assert str(schedule_function(func, MACHINE).attrs[SCHEDULE]) == "plan 3x4"


def test_the_nodes_of_a_function_body_count_as_the_operator() -> None:
    """No converter of its own: ONNX's function body is lowered, and the user knows none of its nodes."""
    calls = found('<ir_version: 10, opset_import: ["" : 17]> m (float[4,6] x) => (float[4,6] y) { [mvn] '
                  "y = MeanVarianceNormalization<axes = [1]>(x) }")  # fmt: skip
    assert {name for call in calls for name in call.layers} <= {"mvn", "y"}
    assert any("mvn" in call.layers for call in calls)
    assert {op for call in calls for op in call.operators} <= {"MeanVarianceNormalization", "output"}


def test_both_branches_are_listed() -> None:
    text = """branches (bool c, float[64] x) => (float[64] y) {
        y = If(c) <
            then_branch = one () => (float[64] t) { [then_node] t = Sin(x) },
            else_branch = two () => (float[64] e) { [else_node] e = Cos(x) }
        >
    }"""
    names = [name for call in found(text) for name in call.layers]
    assert names.index("then_node") < names.index("else_node")


def test_several_results_of_one_kernel_keep_their_layers() -> None:
    calls = found("""split (float[4,6] x) => (float[4,3] a, float[4,3] b) {
        [cut] p, q = Split<axis = 1, num_outputs = 2>(x)
        [first] a = Relu(p)
        [second] b = Neg(q)
    }""")
    assert {"cut", "first", "second"} <= {name for call in calls for name in call.layers}


def test_bytes_count_each_element_once() -> None:
    x, w = placeholder((5, 7)), placeholder((7, 3), name="w")
    k = te.reduce_axis((0, 7), "k")
    y = te.compute((5, 3), lambda i, j: te.sum(x[i, k] * w[k, j], axis=k))
    assert bytes_moved(te.create_prim_func([x, w, y])) == 4 * (35 + 21 + 15)


def test_a_table_counts_by_the_rows_that_are_read() -> None:
    table, rows = placeholder((1000, 8)), placeholder((4,), "int64", "rows")
    y = te.compute((4, 8), lambda i, j: table[rows[i], j])
    assert bytes_moved(te.create_prim_func([table, rows, y])) == 4 * 32 + 8 * 4 + 4 * 32


def test_bytes_are_unknown_for_open_sizes() -> None:
    n = tirx.Var("n", "int64")
    x = placeholder((n, 8))
    assert bytes_moved(te.create_prim_func([x, te.compute((n, 8), lambda i, j: x[i, j] + 1.0)])) is None


def test_fusion_changes_nothing_else() -> None:
    """The pass that notes the layers gives what TVM's own gives."""
    from tvm import relax

    from graphopt.targets.tvm.lowering.provenance import fuse_operators

    mod = relax.transform.AnnotateTIROpPattern()(lower(model_of(BLOCKS, block_weights()), MACHINE).mod)
    noted, plain = fuse_operators(mod), relax.transform.FuseOps()(mod)
    for name in ("graphopt.sources", "graphopt.calls"):
        for module in (noted, plain):
            module["main"] = module["main"].without_attr(name)
    tvm.ir.assert_structural_equal(noted, plain)
