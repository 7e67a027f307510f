"""What products sum: the rows of data that a convolution or matmul multiplies by its weights, and their moments.

With weights as a matrix [N, K] (see `weight_rows`), the error of a product's results after a change of its weights by
D, squared and summed over samples, is the trace of D G D^T, with the Gram matrix G = sum of x x^T of the rows x.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from graphopt.analysis.flops import count_flops
from graphopt.data.samples import Samples
from graphopt.ir import Model, Node
from graphopt.rewriting.shapes import fix_shapes

from .statistics import DEFAULT_MEMORY, Progress, observe

_ROWS_A_COLUMN = 8
"""How many rows are wanted for each of their elements."""
_FEWEST, _MOST = 32, 512
"""The rows of one sample that are used: a convolution has as many as its result has places."""
_ROWS_AT_ONCE = 1024
_FLOPS = 8e11
"""The arithmetic that a run over samples may take: minutes. A large model sees fewer of them."""
_LEAST_SAMPLES = 64


def is_summing(node: Node) -> bool:
    """Return whether a node is a product of data and a matrix of weights, or one for each group of channels."""
    weights = node.input(1)
    shape = None if weights is None else weights.shape
    if node.op == "Conv":
        return shape is not None and None not in shape and node.attr("auto_pad", "NOTSET") in ("NOTSET", "VALID")
    return node.op in ("Gemm", "MatMul") and shape is not None and len(shape) == 2


def groups_of(node: Node) -> int:
    """Return the number of groups of channels that are multiplied by weights of their own."""
    return int(node.attr("group", 1)) if node.op == "Conv" else 1


def weight_rows(node: Node, array: np.ndarray) -> np.ndarray:
    """Return the weights of a product as [groups, N, K]: each of N results is the sum of K products."""
    if node.op != "Conv":
        return (array if node.op == "Gemm" and node.attr("transB", 0) else array.T)[None]
    return array.reshape(groups_of(node), -1, int(np.prod(array.shape[1:])))


def weights_of_rows(node: Node, rows: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Return the weights in their own shape, the inverse of `weight_rows`."""
    if node.op != "Conv":
        return rows[0] if node.op == "Gemm" and node.attr("transB", 0) else np.ascontiguousarray(rows[0].T)
    return rows.reshape(tuple(shape))


def summed_rows(node: Node, data: np.ndarray, most: int = _MOST) -> np.ndarray:
    """Return what a product sums for some of its results, at most `most`, as [groups, M, K]."""
    if node.op == "Conv":
        return _patches(node, data, most)
    if node.op == "Gemm" and node.attr("transA", 0):
        data = data.T
    rows = data.reshape(-1, data.shape[-1])
    return rows[_chosen(len(rows), most)][None]


def _patches(node: Node, data: np.ndarray, most: int) -> np.ndarray:
    assert node.inputs[1] is not None
    shape = node.inputs[1].shape
    assert shape is not None
    kernel = [int(size) for size in shape[2:] if isinstance(size, int)]
    rank = len(kernel)
    pads = list(node.attr("pads", None) or [0] * 2 * rank)
    steps = list(node.attr("dilations", None) or [1] * rank)
    strides = list(node.attr("strides", None) or [1] * rank)
    around = list(zip(pads[:rank], pads[rank:], strict=True))
    padded = np.pad(data, [(0, 0), (0, 0), *around])
    spread = [(size - 1) * step + 1 for size, step in zip(kernel, steps, strict=True)]
    axes = tuple(range(2, 2 + rank))
    windows = np.lib.stride_tricks.sliding_window_view(padded, spread, axis=axes)
    every = (slice(None), slice(None), *(slice(None, None, s) for s in strides), *(slice(None, None, s) for s in steps))
    windows = np.moveaxis(windows[every], 1, 1 + rank)  # [sample, place ..., channel, kernel ...]
    places = np.unravel_index(_chosen(int(np.prod(windows.shape[: 1 + rank])), most), windows.shape[: 1 + rank])
    groups = groups_of(node)
    return np.moveaxis(windows[places].reshape(len(places[0]), groups, -1), 1, 0)


def _chosen(count: int, most: int) -> np.ndarray:
    """Return evenly spread positions; their distance is odd, so that they do not fall into one column of an image."""
    return np.arange(count) if count <= most else np.arange(0, count, -(-count // most) | 1)


@dataclass
class Moments:
    """Sums over the rows of a product: their number, `sums` [groups, K] and, if wanted, `gram` [groups, K, K].

    Sums are float64, the Gram matrix is float32: it is large, and a mean over samples anyway.
    """

    count: int = 0
    sums: np.ndarray = field(default_factory=lambda: np.zeros(0))
    gram: np.ndarray | None = None
    _waiting: list[np.ndarray] = field(default_factory=list)

    def add(self, rows: np.ndarray, gram: bool) -> None:
        """See rows [groups, M, K]; `finish` must be called after the last."""
        sums = rows.sum(1, dtype=np.float64)
        self.sums = sums if not self.count else self.sums + sums
        self.count += rows.shape[1]
        if gram:
            self._waiting.append(rows)
            if sum(rows.shape[1] for rows in self._waiting) >= _ROWS_AT_ONCE:
                self.finish()

    def finish(self) -> None:
        """Multiply the rows that wait for others: many at once are faster."""
        if self._waiting:
            rows = np.concatenate(self._waiting, axis=1)
            self._waiting = []
            if self.gram is None:
                self.gram = np.zeros((rows.shape[0], rows.shape[2], rows.shape[2]), np.float32)
            for total, group in zip(self.gram, np.ascontiguousarray(rows, np.float32), strict=True):
                total += group.T @ group  # of one array, BLAS computes half of the symmetric product

    @property
    def mean(self) -> np.ndarray:
        """The mean of the rows, [groups, K]."""
        return self.sums / max(self.count, 1)


def collect_moments(
    model: Model,
    samples: Samples,
    reads: Sequence[tuple[Node, str]],
    *,
    gram: bool = True,
    progress: Progress | None = None,
) -> list[Moments]:
    """Run a model over samples, the first that are affordable, and return the moments of what products sum.

    `reads`: each product and the name of the value that stands for its data. All moments are in memory at a time: see
    `batches`. `progress` is called with the current activity and the completed share.
    """
    found = [Moments() for _ in reads]
    count = affordable(model, samples, _FLOPS, _LEAST_SAMPLES)
    names = list(dict.fromkeys(name for _, name in reads))
    enough = [_enough(node, count) for node, _ in reads]
    for number, values in enumerate(observe(model, names, itertools.islice(samples, count))):
        if progress is not None:
            progress(f"what {len(found)} products sum, sample {number + 1}", number / count)
        for moments, (node, name), most in zip(found, reads, enough, strict=True):
            moments.add(summed_rows(node, values[name], most), gram)
    for moments in found:
        moments.finish()
    return found


def affordable(model: Model, samples: Samples, flops: float, least: int) -> int:
    """Return how many samples a model can be run on with so much arithmetic: at least `least`, at most all."""
    return min(samples.count, max(least, int(flops / max(flops_of(model, samples), 1))))


def flops_of(model: Model, samples: Samples) -> int:
    """Return the arithmetic of a model's layers for the first sample."""
    copy = model.copy()
    feed = samples.first(1)[0]
    fix_shapes(copy, {name: array.shape for name, array in feed.items() if isinstance(array, np.ndarray)})
    return sum(count_flops(node) or 0 for node in copy.graph.nodes)


def _enough(node: Node, samples: int) -> int:
    """Return how many rows of a sample are used: many more than are needed for a Gram matrix add nothing but time."""
    return min(max(_ROWS_A_COLUMN * _size(node)[1] // samples, _FEWEST), _MOST)


def _size(node: Node) -> tuple[int, int]:
    """Return the number of groups of a product, and that of the elements that it sums."""
    assert node.inputs[1] is not None
    shape = [size for size in node.inputs[1].shape or () if isinstance(size, int)]
    groups, _, size = weight_rows(node, np.broadcast_to(np.float32(0), shape)).shape
    return groups, size


def batches(nodes: Sequence[Node], memory: int = DEFAULT_MEMORY) -> Iterator[list[Node]]:
    """Divide products, in order, into lists whose Gram matrices take no more memory than allowed, or only one."""
    batch: list[Node] = []
    used = 0
    for node in nodes:
        groups, size = _size(node)
        matrix = groups * size * size * np.dtype(np.float32).itemsize
        if batch and used + matrix > memory:
            yield batch
            batch, used = [], 0
        batch.append(node)
        used += matrix
    if batch:
        yield batch
