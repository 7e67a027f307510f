"""Attention as one kernel against ONNX Runtime: layouts, masks, causality, groups of heads, odd and open sizes."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax

from graphopt.driver.optimizing import run_passes
from graphopt.hardware.target import load
from graphopt.targets.tvm.codegen.build import _to_virtual_machine, tvm_target
from graphopt.targets.tvm.cpu.pipeline import Cpu
from graphopt.targets.tvm.device import fuse_and_schedule
from graphopt.targets.tvm.lowering.lower import lower
from graphopt.targets.tvm.machine import machine_for
from graphopt.targets.tvm.relax_passes.memory import Meter
from graphopt.targets.tvm.tir_passes.pipeline import PIPELINE
from tests.helpers import model_of
from tests.targets.lowering.support import Arrays, expected, noise
from tests.targets.schedule.support import HOST, MACHINE


def check(
    text: str, *inputs: Arrays, tolerance: float = 1e-5, kernels: int = 1, want: np.ndarray | None = None
) -> None:
    """Lower with the machine's own kernels, run, and compare with `want` or ONNX Runtime.

    `kernels`: how many kernels must be named after attention (1: the blocked one).
    """
    model = model_of(text, {})
    run_passes(model, "infer-shapes")
    made = lower(model, MACHINE)
    assert sum(name.name_hint.startswith("attention") for name in made.mod.get_global_vars()) == kernels
    with HOST:
        module = fuse_and_schedule(made.mod, HOST, Cpu(MACHINE))
        built = relax.build(module, HOST, relax_pipeline=_to_virtual_machine(Meter()), tir_pipeline=PIPELINE)
    machine = relax.VirtualMachine(built, tvm.cpu())
    weights = [tvm.runtime.tensor(np.asarray(operand.array, order="C")) for _, operand in made.params]
    for given in inputs:
        tensors = [tvm.runtime.tensor(np.ascontiguousarray(given[info.name])) for info in made.inputs]
        result = machine["main"](*tensors, *weights).numpy()
        right = expected(model, given)[0] if want is None else want.astype(result.dtype)
        assert (result.dtype, result.shape) == (right.dtype, right.shape)
        top = np.abs(right[np.isfinite(right)]).max(initial=1e-6)
        np.testing.assert_allclose(result, right, rtol=0, atol=tolerance * top, equal_nan=True)


def attention(q: str, k: str, v: str, y: str, attributes: str = "", mask: str = "", dtype: str = "float") -> str:
    extra = f", {dtype if mask and not mask.startswith('bool') else ''}{mask} m" if mask else ""
    attributes = f" <{attributes}>" if attributes else ""
    return f"""<ir_version: 11, opset_import: ["" : 24]>
agraph ({dtype}[{q}] q, {dtype}[{k}] k, {dtype}[{v}] v{extra}) => ({dtype}[{y}] y) {{
    y = Attention{attributes} (q, k, v{", m" if mask else ""})
}}"""


@pytest.mark.parametrize(
    ("queries", "keys", "size", "values"),
    [(4, 1, 1, 1), (16, 16, 8, 8), (17, 31, 7, 9), (33, 64, 64, 64), (5, 300, 16, 20), (31, 513, 17, 33)],
)
def test_sizes(queries: int, keys: int, size: int, values: int) -> None:
    q, k, v = f"2,3,{queries},{size}", f"2,3,{keys},{size}", f"2,3,{keys},{values}"
    given = {"q": noise(2, 3, queries, size), "k": noise(2, 3, keys, size), "v": noise(2, 3, keys, values)}
    check(attention(q, k, v, f"2,3,{queries},{values}"), given)


@pytest.mark.parametrize("shape", [(9, 20), (1, 1, 9, 20), (2, 1, 9, 20), (2, 4, 9, 20), (4, 1, 20), (9, 13)])
@pytest.mark.parametrize("kind", ["float", "bool"])
def test_masks(shape: tuple[int, ...], kind: str) -> None:
    mask = noise(*shape) if kind == "float" else noise(*shape) > -1
    given = {"q": noise(2, 4, 9, 8), "k": noise(2, 4, 20, 8, seed=1), "v": noise(2, 4, 20, 8, seed=2), "m": mask}
    place = f"{'bool' if kind == 'bool' else ''}[{','.join(map(str, shape))}]"
    # ONNX Runtime wants as many rows in a mask as there are queries.
    added = mask if kind == "float" else np.where(mask, 0, -np.inf)
    hidden = [(0, 0)] * (mask.ndim - 1) + [(0, 20 - shape[-1])]  # a short mask hides the keys beyond it
    added = np.pad(added, hidden, constant_values=-np.inf)
    text = attention("2,4,9,8", "2,4,20,8", "2,4,20,8", "2,4,9,8", mask=place)
    check(text, given, want=_plain(given, added))


def test_masked_rows_and_infinities() -> None:
    mask = np.zeros((9, 300), np.float32)
    mask[3] = -np.inf
    mask[5, :280] = -np.inf
    mask[6, 280:] = np.finfo(np.float32).min
    given = {"q": noise(1, 2, 9, 8), "k": noise(1, 2, 300, 8), "v": noise(1, 2, 300, 8), "m": mask}
    text = attention("1,2,9,8", "1,2,300,8", "1,2,300,8", "1,2,9,8", mask="[9,300]")
    given["q"][0, 1, 7] = np.nan
    check(text, given, want=_plain(given, mask))


def _plain(given: Arrays, mask: np.ndarray) -> np.ndarray:
    """The definition, in which a row that sees nothing is zero."""
    scores = given["q"].astype("f8") @ np.swapaxes(given["k"], -1, -2) / np.sqrt(given["q"].shape[-1]) + mask
    top = scores.max(-1, keepdims=True)
    weights = np.exp(scores - np.where(top == -np.inf, 0, top))
    total = weights.sum(-1, keepdims=True)
    return weights / np.where(total == 0, 1, total) @ given["v"]


def test_causal() -> None:
    given = {"q": noise(1, 2, 40, 8), "k": noise(1, 2, 50, 8), "v": noise(1, 2, 50, 8)}
    check(attention("1,2,40,8", "1,2,50,8", "1,2,50,8", "1,2,40,8", "is_causal = 1"), given)


def test_groups_of_heads_side_by_side() -> None:
    given = {"q": noise(2, 21, 48), "k": noise(2, 21, 16), "v": noise(2, 21, 16)}
    check(attention("2,21,48", "2,21,16", "2,21,16", "2,21,48", "q_num_heads = 6, kv_num_heads = 2"), given)


def test_open_sizes() -> None:
    sets = []
    for batch, queries, keys in ((1, 5, 5), (3, 16, 40), (2, 1, 700)):
        shapes = ((batch, 2, queries, 8), (batch, 2, keys, 8), (batch, 2, keys, 8))
        sets.append({name: noise(*shape) for name, shape in zip("qkv", shapes, strict=True)})
    check(attention("b,2,s,8", "b,2,t,8", "b,2,t,8", "b,2,s,8", "scale = 0.3"), *sets)


def test_float16() -> None:
    given = {name: noise(1, 2, 20, 16).astype(np.float16) for name in "qkv"}
    text = attention("1,2,20,16", "1,2,20,16", "1,2,20,16", "1,2,20,16", dtype="float16")
    check(text, given, tolerance=2e-3)


def test_heads_are_read_from_the_merged_product_and_written_side_by_side() -> None:
    text = """<ir_version: 11, opset_import: ["" : 24]>
agraph (float[2,9,72] x) => (float[2,9,24] y)
<int64[4] four = {2, 9, 3, 8}, int64[3] three = {2, 9, 24}> {
    q, k, v = Split <axis = 2, num_outputs = 3> (x)
    q4 = Reshape (q, four)
    k4 = Reshape (k, four)
    v4 = Reshape (v, four)
    qt = Transpose <perm = [0, 2, 1, 3]> (q4)
    kt = Transpose <perm = [0, 2, 1, 3]> (k4)
    vt = Transpose <perm = [0, 2, 1, 3]> (v4)
    a = Attention (qt, kt, vt)
    at = Transpose <perm = [0, 2, 1, 3]> (a)
    y = Reshape (at, three)
}"""
    check(text, {"x": noise(2, 9, 72)})
    model = model_of(text, {})
    run_passes(model, "infer-shapes")
    module = fuse_and_schedule(lower(model, MACHINE).mod, HOST, Cpu(MACHINE))
    assert sorted(name.name_hint for name in module.get_global_vars()) == ["attention", "main"]


def test_declines_what_it_cannot_do() -> None:
    given = {"q": noise(1, 2, 9, 8), "k": noise(1, 2, 9, 8), "v": noise(1, 2, 9, 8)}
    text = attention("1,2,9,8", "1,2,9,8", "1,2,9,8", "1,2,9,8", "softcap = 2.0")
    check(text, given, kernels=3)


@pytest.mark.parametrize("target", ["x86:v4", "arm"])
def test_other_machines_compile(target: str) -> None:
    description = load(target)
    machine, made_for = machine_for(description), tvm_target(description)
    text = attention("1,2,40,16", "1,2,40,16", "1,2,40,16", "1,2,40,16", "is_causal = 1")
    module = fuse_and_schedule(lower(model_of(text, {}), machine).mod, made_for, Cpu(machine))
    kernel = module["attention"].with_attr("global_symbol", "main")
    with made_for:
        code = tvm.compile(tvm.IRModule({"main": kernel}), made_for, tir_pipeline=PIPELINE).mod.inspect_source("asm")
    assert {"x86:v4": "zmm", "arm": "fmla"}[target] in code
