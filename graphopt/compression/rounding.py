"""Rounding of weights so that the results of products change least, given the Gram matrix of their data.

All arrays have a first axis for groups of channels: weights are [groups, N, K], Gram matrices [groups, K, K]. What is
done to one column of weights after the other works on transposed float32 arrays, [groups, K, N], in which a column lies
in one place; eight bits need no more precision.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_BLOCK = 128
"""How many columns are rounded before the others learn of their errors, by one product of matrices."""
_HARDLY_ANY = 1e-3
"""The part of the weights that must move in a sweep for another one to be worth its time."""


@dataclass(frozen=True)
class Steps:
    """The integers that each weight may become: `(q - points) * scales`, with q from `first` to `last`."""

    scales: np.ndarray
    points: np.ndarray
    first: int
    last: int

    def nearest(self, floats: np.ndarray) -> np.ndarray:
        """Return the nearest integers, in the dtype of the floats."""
        return np.clip(np.rint(floats / self.scales) + self.points, self.first, self.last)

    def floats(self, integers: np.ndarray) -> np.ndarray:
        return (integers - self.points) * self.scales

    def transposed(self, order: np.ndarray | None = None) -> Steps:
        """Return those of columns, [groups, K, N], in this order."""
        return Steps(_columns(self.scales, order), _columns(self.points, order), self.first, self.last)

    def column(self, k: int) -> Steps:
        """Return those of a transposed column."""
        return Steps(self.scales[:, k], self.points[:, k], self.first, self.last)


def _columns(rows: np.ndarray, order: np.ndarray | None = None) -> np.ndarray:
    """Return [groups, N, K] as [groups, K, N] in float32, with columns in this order, [groups, K]."""
    columns = rows.swapaxes(1, 2)
    if order is not None:
        columns = np.take_along_axis(columns, order[:, :, None], 1)
    return np.ascontiguousarray(columns, np.float32)


def result_error(change: np.ndarray, gram: np.ndarray) -> np.ndarray:
    """Return the squared error of each result [groups, N] if weights change by `change`."""
    change = change.astype(np.float32)
    error: np.ndarray = (np.matmul(change, gram) * change).sum(-1, dtype=np.float64)
    return error


def gptq(weights: np.ndarray, steps: Steps, gram: np.ndarray, damping: float = 0.01, order: bool = True) -> np.ndarray:
    """Round columns one after the other, each aiming at its weights plus what makes up for the errors so far.

    Elias Frantar et al., "GPTQ" (2023), in the form of Jerry Chee et al., "QuIP" (2023), which needs no inverse.
    `damping`: this part of the mean of the Gram matrix's diagonal is added to it. `order`: columns of the largest data
    come first. Returns integers in float32.
    """
    size, diagonal = gram.shape[-1], np.einsum("gkk->gk", gram)
    ranks = np.argsort(-diagonal, -1, kind="stable") if order else np.broadcast_to(np.arange(size), diagonal.shape)
    gram = np.take_along_axis(np.take_along_axis(gram, ranks[:, :, None], 1), ranks[:, None, :], 2)
    feedback = _feedback(gram, damping)
    wanted, steps = _columns(weights, ranks), steps.transposed(ranks)
    integers, errors = np.empty_like(wanted), np.empty_like(wanted)
    for start in range(0, size, _BLOCK):
        part = slice(start, min(start + _BLOCK, size))
        aims = wanted[:, part] + np.matmul(feedback[:, part, :start], errors[:, :start])
        for k in range(start, part.stop):
            own = steps.column(k)
            aim = aims[:, k - start] + np.matmul(feedback[:, k : k + 1, start:k], errors[:, start:k])[:, 0]
            integers[:, k] = own.nearest(aim)
            errors[:, k] = wanted[:, k] - own.floats(integers[:, k])
    found = np.empty_like(integers)
    np.put_along_axis(found, np.broadcast_to(ranks[:, :, None], found.shape), integers, 1)
    return found.swapaxes(1, 2)


def _feedback(gram: np.ndarray, damping: float) -> np.ndarray:
    """Return how much of the error of column j is added to column k: lower triangular in [k, j], in float32.

    With H = R D R^T, where R is upper triangular with ones on its diagonal, the squared error of weights that change by
    e is the sum of d_k (e R)_k^2: column k makes its part smallest by adding the errors before it, times R^T. R comes
    from the Cholesky root of the matrix with its rows and columns in reverse order.
    """
    reverse = gram[:, ::-1, ::-1].astype(np.float64)
    diagonal = np.einsum("gkk->gk", reverse)
    diagonal += np.maximum(damping * diagonal.mean(-1, keepdims=True), np.finfo(np.float64).tiny)
    root = np.linalg.cholesky(reverse)
    root /= np.einsum("gkk->gk", root)[:, None].copy()
    return np.ascontiguousarray(root[:, ::-1, ::-1].swapaxes(1, 2), np.float32)


def descend(weights: np.ndarray, integers: np.ndarray, steps: Steps, gram: np.ndarray, sweeps: int = 4) -> np.ndarray:
    """Set one integer of each row after the other to its best value, the others staying: no step raises the error.

    What AdaRound (Nagel et al., 2020) approaches by gradients, in closed form for each weight. Returns integers in
    float32.
    """
    wanted, steps, integers = _columns(weights), steps.transposed(), _columns(integers).copy()
    gram = gram.astype(np.float32, copy=False)
    diagonal = np.maximum(np.einsum("gkk->gk", gram), np.finfo(np.float32).tiny)
    for _ in range(sweeps):
        slope = np.matmul(gram, steps.floats(integers) - wanted)
        moves = np.empty_like(slope)
        for start in range(0, gram.shape[-1], _BLOCK):
            part = slice(start, min(start + _BLOCK, gram.shape[-1]))
            slope[:, part] += np.matmul(gram[:, part, :start], moves[:, :start])
            for k in range(start, part.stop):
                own = steps.column(k)
                now = own.floats(integers[:, k])
                mine = slope[:, k] + np.matmul(gram[:, k : k + 1, start:k], moves[:, start:k])[:, 0]
                integers[:, k] = own.nearest(now - mine / diagonal[:, k, None])
                moves[:, k] = own.floats(integers[:, k]) - now
        if np.count_nonzero(moves) <= _HARDLY_ANY * integers.size:
            break
    return integers.swapaxes(1, 2)
