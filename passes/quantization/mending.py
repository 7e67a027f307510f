"""Steps that mend a quantized model, kept only where they lower its error on samples."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.compression.joining import joined
from graphopt.compression.products import Moments, affordable, batches, collect_moments, flops_of, weight_rows
from graphopt.compression.rounding import Steps, result_error
from graphopt.errors import PassError
from graphopt.hardware import processor
from graphopt.ir import Graph, Model, Node, infer_shapes
from graphopt.passes.quantization.stored import StoredWeights, stored_weights
from graphopt.proof.oracle import Reference
from graphopt.rewriting.passes import PassContext

_MOST_SAMPLES = 256
_MOST_BYTES = 1 << 27
_FLOPS = 1e11
"""The arithmetic that measuring the error of the outputs may take: seconds, because it is done often."""
_FLOPS_A_PASS = 2e12
"""The arithmetic that all these measurements of one pass may take: a minute or two."""
_FEWEST_MEASUREMENTS = 16
_LEAST_SAMPLES = 16
_AT_ONCE = 8
_FLOPS_AT_ONCE = 1e9
"""The arithmetic of a run to which samples are joined: many nodes with little work each take longer than they need."""
TINY = 1e-30


class OutputError:
    """The error of a model's floating-point outputs against those of the float model, on some of the samples.

    Each output counts equally: its squared error is divided by its squared size. `left` is how often it may still be
    measured, because that takes long for large models.
    """

    def __init__(self, context: PassContext) -> None:
        assert context.floats is not None
        assert context.evaluation.samples is not None
        samples = context.evaluation.samples
        count = min(affordable(context.floats, samples, _FLOPS, _LEAST_SAMPLES), _MOST_SAMPLES)
        self.feeds = samples.first(count, _MOST_BYTES)
        each = max(flops_of(context.floats, samples), 1)
        self.left = max(_FEWEST_MEASUREMENTS, int(_FLOPS_A_PASS / (each * len(self.feeds))))
        with Reference(context.floats, threads=processor.cores()) as reference:
            most = min(_AT_ONCE, int(_FLOPS_AT_ONCE / each))
            self.feeds = joined(context.model.graph, reference, self.feeds, most)
            self.wanted = [_floats_of(reference.run(feed)) for feed in self.feeds]
        sizes = [sum(float(np.square(w[i]).sum()) for w in self.wanted) for i in range(len(self.wanted[0]))]
        self.sizes = [max(size, TINY) for size in sizes]

    def of(self, model: Model) -> float:
        """Return the mean of the outputs' relative squared errors."""
        total = 0.0
        self.left -= 1
        with Reference(model, threads=processor.cores()) as reference:
            for feed, wanted in zip(self.feeds, self.wanted, strict=True):
                for one, other, size in zip(_floats_of(reference.run(feed)), wanted, self.sizes, strict=True):
                    total += float(np.square(one - other).sum()) / size
        return total / max(len(self.sizes), 1)


def _floats_of(outputs: dict[str, object]) -> list[np.ndarray]:
    arrays = [value for value in outputs.values() if isinstance(value, np.ndarray) and value.dtype.kind == "f"]
    return [array.astype(np.float64) for array in arrays]


@dataclass(frozen=True)
class Step:
    """A change of one product that can be made and undone."""

    node: Node
    make: Callable[[], None]
    undo: Callable[[], None]


def keep_what_helps(context: PassContext, steps: Sequence[Step], error: OutputError, counted: str) -> None:
    """Make those steps that lower the error of the outputs: all, or else those of the halves that do, and so on.

    The context counts the kept ones as `counted`, and the others as misses.
    """
    if not steps:
        return
    now = error.of(context.model)
    waiting, done = [list(steps)], 0
    while waiting:
        part = waiting.pop(0)
        if error.left <= 0:
            for step in part:
                context.miss("to find out whether it lowers the error of the outputs would take too long", step.node)
            continue
        context.progress(f"measuring {len(part)} of {len(steps)} products", done / len(steps))
        for step in part:
            step.make()
        then = error.of(context.model)
        if then < now:
            now = then
            context.count(counted, len(part))
            done += len(part)
            continue
        for step in reversed(part):
            step.undo()
        if len(part) == 1:
            context.miss("it would not lower the error of the outputs", part[0].node)
            done += 1
        else:
            waiting += [part[: len(part) // 2], part[len(part) // 2 :]]


@dataclass(frozen=True)
class Mendable:
    """A product with stored weights, and what they were as floats, [groups, N, K]."""

    stored: StoredWeights
    floats: np.ndarray
    counterpart: Node

    @property
    def node(self) -> Node:
        return self.stored.node

    @property
    def steps(self) -> Steps:
        """The integers that each weight may become."""
        stored = self.stored
        return Steps(stored.scales, stored.points, *stored.limits)

    @property
    def data(self) -> str:
        """The name of the value that it reads."""
        assert self.node.inputs[0] is not None
        return self.node.inputs[0].name


def mendable_products(graph: Graph, context: PassContext) -> list[Mendable]:
    """Return the products of a graph whose weights are integers now, and were floats before the first lossy pass.

    Raises InputError without samples, and PassError if there is no such product.
    """
    context.evaluation.require("samples")
    infer_shapes(context.model)
    found = []
    for node in graph.nodes:
        if node.op not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            continue
        stored = stored_weights(node)
        other = _counterpart(node, context)
        if isinstance(stored, str):
            context.miss(f"{node.op}: {stored}", node)
        elif other is None or other.inputs[1] is None or other.inputs[1].constant is None:
            context.miss(f"{node.op}: the model before quantization has no such product", node)
        else:
            rows = weight_rows(other, other.inputs[1].constant.numpy().astype(np.float64))
            if rows.shape == stored.integers.shape:
                found.append(Mendable(stored, rows, other))
            else:
                context.miss(f"{node.op}: the model before quantization has no such product", node)
    if not found:
        reasons = "; ".join(context.misses) or "it has no convolution or matmul"
        raise PassError(
            f"there are no quantized products to mend ({reasons})",
            where=context.model.name,
            remedy="run it after quantize-static or quantize-weights, in the same pipeline",
        )
    return found


def _counterpart(node: Node, context: PassContext) -> Node | None:
    """Return the product of the float model with the same result."""
    assert context.floats is not None
    value = context.floats.graph.find(node.output.name)
    found = None if value is None else value.producer
    return found if found is not None and found.op == node.op else None


def product_moments(context: PassContext, products: Sequence[Mendable]) -> Iterator[list[tuple[Mendable, Moments]]]:
    """Yield products with the moments of what they sum, those of as many at a time as fit into memory.

    If all fit, they are kept for the next pass: other weights change the data of the products after them little, and
    whether a step helps is measured anyway. Running the model on all samples takes longer than most of the passes.
    """
    samples, store = context.evaluation.samples, context.evaluation.statistics
    assert samples is not None
    key = (samples.digest, _apart_from_weights(context.model.graph), tuple(p.node.output.name for p in products))
    if store.grams is not None and store.grams[0] == key:
        yield list(zip(products, store.grams[1], strict=True))
        return
    store.grams = None
    by_node = {product.node: product for product in products}
    for batch in batches(list(by_node)):
        found = [by_node[node] for node in batch]
        reads = [(product.node, product.data) for product in found]
        moments = collect_moments(context.model, samples, reads, progress=context.progress)
        if len(batch) == len(products):
            store.grams = key, moments
        yield list(zip(found, moments, strict=True))


def _apart_from_weights(graph: Graph) -> Hashable:
    """Return what tells graphs apart whose weights and biases may differ: nodes, and the scales of activations."""
    facts = []
    for node in graph.nodes:
        data = node.input(0)
        if data is not None and data.constant is not None:
            continue
        rounds = node.op == "QuantizeLinear"
        scales = tuple(value.constant.digest for value in node.inputs[1:] if rounds and value and value.constant)
        facts.append((node.op, tuple(value.name for value in node.outputs), scales))
    return tuple(facts)


def reround(graph: Graph, context: PassContext, choose: Callable[[Mendable, np.ndarray], np.ndarray]) -> None:
    """Give products other integers, chosen from their float weights and the Gram matrix of what they sum.

    Those are kept that lower the error of the product's own results, and then those that lower that of the outputs.
    """
    products = [product for product in mendable_products(graph, context) if context.allow(product.node)]
    error = OutputError(context)
    for batch in product_moments(context, products):
        steps = []
        for number, (product, its) in enumerate(batch):
            context.progress(f"rounding product {number + 1} of {len(batch)}", number / len(batch))
            steps.append(_rerounded(context, product, its, choose))
        keep_what_helps(context, [step for step in steps if step is not None], error, "products rounded anew")


def _rerounded(
    context: PassContext, product: Mendable, moments: Moments, choose: Callable[[Mendable, np.ndarray], np.ndarray]
) -> Step | None:
    assert moments.gram is not None
    old, stored = product.stored.integers, product.stored
    new = choose(product, moments.gram)
    before, after = (result_error(stored.dequantized(q) - product.floats, moments.gram) for q in (old, new))
    new = np.where((after < before)[..., None], new, old)
    if np.array_equal(new, old):
        context.miss("no other rounding lowers the error of the product", product.node)
        return None

    def write(integers: np.ndarray) -> None:
        stored.write(context.rewriter(product.node.graph, product.node), integers)

    return Step(product.node, lambda: write(new), lambda: write(old))
