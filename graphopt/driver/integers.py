"""Which products of a quantized model a target computes on integers, and why it does not compute others."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.analysis.flops import count_flops
from graphopt.hardware.target import Target
from graphopt.ir import Model, Node
from graphopt.rewriting.pipeline import Observer, PassManager, Pipeline, Step
from graphopt.rewriting.report import StepResult

from . import backend
from .optimizing import optimize

_PASS = "integer-products"
_INTEGER = ("ConvInteger", "MatMulInteger")
_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul", *_INTEGER)
_MARKS = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", *_INTEGER)


@dataclass(frozen=True)
class Product:
    """A convolution or matmul of a quantized model; `reason` says why it computes on floats, "" if it does not."""

    node: str
    op: str
    flops: int | None
    reason: str

    @property
    def is_integer(self) -> bool:
        return not self.reason


def is_quantized(model: Model) -> bool:
    """Return whether a model computes, or stores weights, as integers with scales."""
    return any(
        node.op_type in _MARKS or node.op_type.startswith(("QLinear", "QGemm", "QAttention")) for node in _nodes(model)
    )


def _nodes(model: Model) -> list[Node]:
    return list(model.graph.all_nodes())


def products(model: Model, target: Target) -> list[Product]:
    """Return the convolutions and matmuls of a quantized model, after the passes that `compile` runs by default.

    None of them is on integers for a target whose backend has no kernels for that. Raises what `optimize` raises.
    """
    optimized, _ = optimize(model, target=target)
    lowering = Pipeline.parse(backend.load().pipeline(target))
    if not any(pass_.name == _PASS for pass_ in lowering.passes):
        reason = f"{target.name} has no kernels for integers"
        return [Product(n.label, n.op, count_flops(n), reason) for n in _nodes(optimized) if n.op in _PRODUCTS]
    watch = _Watch()
    PassManager(lowering, observers=[watch], target=target).run(optimized)
    return watch.products


class _Watch(Observer):
    """Looks at the products before and after the pass that makes integers of them."""

    def __init__(self) -> None:
        self.products: list[Product] = []
        self._before: list[tuple[Node, str, str, int | None]] = []
        self._reasons: dict[Node, str] = {}

    def before(self, step: Step, model: Model) -> None:
        if step.pass_.name == _PASS:
            self._before = [(n, n.label, n.op, count_flops(n)) for n in _nodes(model) if n.op in _PRODUCTS]

    def declined(self, step: Step, node: Node, reason: str) -> None:
        if step.pass_.name == _PASS:
            self._reasons[node] = reason.removeprefix(f"{node.op}: ")

    def after(self, step: Step, model: Model, result: StepResult) -> None:
        if step.pass_.name != _PASS:
            return
        for node, label, op, flops in self._before:
            reason = "" if node.removed or op in _INTEGER else self._reasons.get(node, f"{op} has no integer kernel")
            self.products.append(Product(label, op, flops, reason))
