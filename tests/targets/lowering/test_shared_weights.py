"""A weight that several nodes read is stored once, packed once per layout, and read when it is written."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.driver.optimizing import run_passes
from graphopt.ir import Model, Tensor
from graphopt.targets.tvm.kernels.family import FLOAT32
from graphopt.targets.tvm.kernels.matmul.plan import MatmulWorkload
from graphopt.targets.tvm.kernels.plans import NEARLY, Plans, default
from graphopt.targets.tvm.lowering.lower import Lowered, lower
from tests.helpers import model_of
from tests.targets.lowering.support import MACHINE, check_for_machine, noise
from tests.targets.tuning.support import conv

PRODUCTS = """
<ir_version: 9, opset_import: ["" : 21]>
g (float[1, 64] a, float[20, 64] b, float[3, 64] c) => (float[1, 96] x, float[20, 96] y, float[3, 96] z)
{
  x = MatMul(a, w)
  y = MatMul(b, w)
  z = Gemm(c, w)
}
"""


def lowered(text: str, weights: dict[str, np.ndarray]) -> Lowered:
    model = model_of(text, weights)
    run_passes(model, "infer-shapes")
    return lower(model, MACHINE)


def test_products_of_any_rows_share_a_packed_weight() -> None:
    w = noise(64, 96)
    made = lowered(PRODUCTS, {"w": w})
    assert len(made.params) < 3
    given = {"a": noise(1, 64), "b": noise(20, 64), "c": noise(3, 64)}
    check_for_machine(PRODUCTS, given, weights={"w": w})


def test_an_unrolled_loop_reads_one_weight() -> None:
    """Also where the weight is transposed on the way."""
    steps = [f"h{i + 1} = Gemm<transB = 1>(h{i}, w)" for i in range(6)]
    text = f"""
    <ir_version: 9, opset_import: ["" : 21]>
    g (float[1, 48] h0) => (float[1, 48] h6) {{ {" ".join(steps)} }}
    """
    w = noise(48, 48) / 8
    assert [operand.shape for _, operand in lowered(text, {"w": w}).params] == [(1, 48, 48)]
    check_for_machine(text, {"h0": noise(1, 48)}, weights={"w": w})


def test_a_table_that_is_also_multiplied_by_is_stored_as_each_needs_it() -> None:
    text = """
    <ir_version: 9, opset_import: ["" : 21]>
    g (int64[4] i, float[4, 64] a) => (float[4, 40] x, float[4, 40] y)
    {
      x = Gather(w, i)
      y = MatMul(a, w)
    }
    """
    w = noise(64, 40)
    assert len(lowered(text, {"w": w}).params) == 2
    given = {"i": np.array([0, 63, 5, 5]), "a": noise(4, 64)}
    check_for_machine(text, given, weights={"w": w})


def test_a_convolution_at_several_sizes_shares_its_weight() -> None:
    """As the head of a detector, which looks at images of five sizes."""
    plans = Plans(MACHINE)
    sizes = (52, 26, 13, 7)
    chosen = {size: plans.choose(conv(19, 24, size, kernel=1), "head") for size in sizes}
    layouts = {family.layout(conv(19, 24, size, kernel=1), plan) for size, (family, plan) in chosen.items()}
    alone = {size: default(conv(19, 24, size, kernel=1), MACHINE) for size in sizes}
    assert len(layouts) <= len({family.layout(conv(19, 24, s, kernel=1), plan) for s, (family, plan) in alone.items()})
    for size, (family, plan) in chosen.items():
        best = family.cost(conv(19, 24, size, kernel=1), alone[size][1], MACHINE)
        assert family.cost(conv(19, 24, size, kernel=1), plan, MACHINE) <= NEARLY * best


@pytest.mark.parametrize("rows", [(1, 2, 20, 64, 7), (64, 20, 7, 2, 1)])
@pytest.mark.parametrize("columns", [24, 96, 1000])
def test_a_shared_layout_costs_little(rows: tuple[int, ...], columns: int) -> None:
    plans = Plans(MACHINE)
    for m in rows:
        work = MatmulWorkload(m, columns, 256, FLOAT32, packed=True)
        family, plan = plans.choose(work, "w")
        best = family.default(work, MACHINE)
        assert family.cost(work, plan, MACHINE) <= NEARLY * family.cost(work, best, MACHINE)
        assert plans.choose(work, "w") == (family, plan)


def test_a_compact_plan_makes_no_weight_grow() -> None:
    """Winograd's transformed weights are four times as large, and panels that do not divide the columns are padded."""
    work = conv(64, 64, 28)
    usual, compact = Plans(MACHINE).choose(work, "w"), Plans(MACHINE, compact=True).choose(work, "w")
    assert usual is not None
    assert compact is not None
    assert usual[0].name == "conv_winograd"
    assert compact[0].name == "conv_direct"
    for columns in (96, 1000):
        plans = Plans(MACHINE, compact=True)
        layouts = set()
        for m in (1, 20, 64):
            product = MatmulWorkload(m, columns, 256, FLOAT32, packed=True)
            chosen = plans.choose(product, "w")
            assert chosen is not None
            layouts.add(chosen[0].layout(product, chosen[1]))
            assert np.prod(chosen[0].packed_shape(product, chosen[1])) <= 1.05 * 256 * columns
        assert len(layouts) <= 2


def test_weights_of_other_nodes_change_no_plan() -> None:
    plans = Plans(MACHINE)
    plans.choose(MatmulWorkload(1, 96, 256, FLOAT32, packed=True), "w")
    work = MatmulWorkload(64, 96, 256, FLOAT32, packed=True)
    assert plans.choose(work, "v") == default(work, MACHINE)
    assert plans.choose(work) == default(work, MACHINE)


def test_lowering_reads_no_large_weight() -> None:
    model: Model = model_of(PRODUCTS, {"w": noise(64, 96)})
    run_passes(model, "infer-shapes")
    value = model.graph.initializers["w"]
    assert value.tensor is not None

    def read() -> np.ndarray:
        raise AssertionError("the weight is read")

    def unread(tensor: Tensor) -> Tensor:
        return Tensor(tensor.dtype, tensor.shape, read)

    from graphopt.ir import edit

    edit.set_tensor(value, unread(value.tensor))
    made = lower(model, MACHINE)
    with pytest.raises(AssertionError, match="the weight is read"):
        list(made.params[0][1].pieces())


def test_the_parts_of_a_packed_matrix_are_the_whole() -> None:
    for columns in (1, 31, 64, 70):
        for k in (1, 50):
            work = MatmulWorkload(5, columns, k, FLOAT32, packed=True)
            family, plan = default(work, MACHINE)
            matrix = noise(k, columns)
            parts = list(family.parts(matrix, work, plan))
            whole = family.pack(matrix, work, plan)
            assert whole.shape == family.packed_shape(work, plan)
            np.testing.assert_array_equal(np.concatenate(parts), whole)
            back = whole.transpose(1, 0, 2).reshape(k, -1)
            np.testing.assert_array_equal(back[:, :columns], matrix)
            assert not back[:, columns:].any()
