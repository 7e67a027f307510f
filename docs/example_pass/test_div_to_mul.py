import numpy as np
import onnx.parser
from div_to_mul import DivToMul

import graphopt

MODEL = """
<ir_version: 11, opset_import: ["" : 24]>
g (float[N,2] x, int64[N,2] i) => (float[N,2] y, int64[N,2] j)
<float[2] c = {3, 4}, int64[2] d = {2, 5}>
{ y = Div(x, c)  j = Div(i, d) }
"""


def test_constants_become_reciprocals():
    model = onnx.parser.parse_model(MODEL)
    data = {"x": np.float32([[3, 2], [1, -8]]), "i": np.int64([[5, 5], [-5, 9]])}
    # verify=True runs the graph in ONNX Runtime before and after the pass, and raises if the numbers differ.
    optimized, report = graphopt.optimize(model, graphopt.Pipeline.of(DivToMul()), verify=True, data=data)
    assert [node.op for node in optimized.graph.nodes] == ["Mul", "Div"]
    assert report.counts == {"div-to-mul/rewritten": 1}
    assert report.misses == {("div-to-mul", "integers do not divide by multiplying"): 1}


def test_a_divisor_whose_reciprocal_overflows_stays():
    model = onnx.parser.parse_model(MODEL.replace("{3, 4}", "{3, 1e-45}"))
    _, report = graphopt.optimize(model, graphopt.Pipeline.of(DivToMul()))
    assert not report.changed
    assert ("div-to-mul", "a reciprocal overflows or underflows") in report.misses


def test_it_is_found_by_its_entry_point():
    assert graphopt.Pipeline.parse("div-to-mul{largest=10}").passes == [DivToMul(largest=10)]
