"""Rounding of weights so that the results of products change least, given the Gram matrix of their data.

All arrays have a first axis for groups of channels: weights are [groups, N, K], Gram matrices [groups, K, K].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_BLOCK = 128
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
        """Return the nearest integers, in float64."""
        return np.clip(np.rint(floats / self.scales) + self.points, self.first, self.last)

    def floats(self, integers: np.ndarray) -> np.ndarray:
        return (integers - self.points) * self.scales

    def taken(self, order: np.ndarray) -> Steps:
        """Return those of columns in another order."""
        index = order[:, None, :]
        return Steps(
            np.take_along_axis(self.scales, index, 2), np.take_along_axis(self.points, index, 2), self.first, self.last
        )

    def columns(self, part: slice | int) -> Steps:
        return Steps(self.scales[..., part], self.points[..., part], self.first, self.last)


def result_error(change: np.ndarray, gram: np.ndarray) -> np.ndarray:
    """Return the squared error of each result [groups, N] if weights change by `change`."""
    error: np.ndarray = (np.matmul(change, gram) * change).sum(-1)
    return error


def gptq(weights: np.ndarray, steps: Steps, gram: np.ndarray, damping: float = 0.01, order: bool = True) -> np.ndarray:
    """Round columns one after the other, each time moving the rest of a row so that it makes up for the error.

    Elias Frantar et al., "GPTQ" (2023). `damping`: this part of the mean of the Gram matrix's diagonal is added to it.
    `order`: columns of the largest data come first. Returns integers in float64.
    """
    size, gram = gram.shape[-1], gram.astype(np.float64)
    diagonal = np.einsum("gkk->gk", gram)
    ranks = np.argsort(-diagonal, -1, kind="stable") if order else np.broadcast_to(np.arange(size), diagonal.shape)
    gram = np.take_along_axis(np.take_along_axis(gram, ranks[:, :, None], 1), ranks[:, None, :], 2)
    added = np.maximum(damping * diagonal.mean(-1), np.finfo(np.float64).tiny)
    upper = _root_of_inverse(gram + added[:, None, None] * np.eye(size))
    left = np.take_along_axis(weights, ranks[:, None, :], 2).astype(np.float64)
    steps = steps.taken(ranks)
    integers = np.empty_like(left)
    for start in range(0, size, _BLOCK):
        part = slice(start, min(start + _BLOCK, size))
        errors = np.empty((*left.shape[:2], part.stop - start))
        for k in range(start, part.stop):
            own = steps.columns(k)
            integers[..., k] = own.nearest(left[..., k])
            errors[..., k - start] = (left[..., k] - own.floats(integers[..., k])) / upper[:, None, k, k]
            left[..., k : part.stop] -= errors[..., k - start, None] * upper[:, None, k, k : part.stop]
        left[..., part.stop :] -= np.matmul(errors, upper[:, part, part.stop :])
    found = np.empty_like(integers)
    np.put_along_axis(found, np.broadcast_to(ranks[:, None, :], found.shape), integers, 2)
    return found


def _root_of_inverse(gram: np.ndarray) -> np.ndarray:
    """Return the upper triangular R with R^T R the inverse of a matrix.

    That of the matrix with its rows and columns in reverse order is lower triangular, and the inverse of its own root.
    """
    lower = np.linalg.cholesky(gram[:, ::-1, ::-1])
    return np.ascontiguousarray(_inverse_of_lower(lower)[:, ::-1, ::-1])


def _inverse_of_lower(lower: np.ndarray) -> np.ndarray:
    """Return the inverse of lower triangular matrices, by halves: mostly products, which are the fastest."""
    size = lower.shape[-1]
    if size <= _BLOCK:
        inverse: np.ndarray = np.tril(np.linalg.inv(lower))
        return inverse
    half = size // 2
    first, last = _inverse_of_lower(lower[:, :half, :half]), _inverse_of_lower(lower[:, half:, half:])
    found = np.zeros_like(lower)
    found[:, :half, :half], found[:, half:, half:] = first, last
    found[:, half:, :half] = -np.matmul(np.matmul(last, lower[:, half:, :half]), first)
    return found


def descend(weights: np.ndarray, integers: np.ndarray, steps: Steps, gram: np.ndarray, sweeps: int = 4) -> np.ndarray:
    """Set one integer of each row after the other to its best value, the others staying: no step raises the error.

    What AdaRound (Nagel et al., 2020) approaches by gradients, in closed form for each weight. Returns integers.
    """
    integers, gram = integers.copy(), gram.astype(np.float64)
    diagonal = np.maximum(np.einsum("gkk->gk", gram), np.finfo(np.float64).tiny)
    for _ in range(sweeps):
        slope = np.matmul(steps.floats(integers) - weights, gram)
        changed = 0
        for start in range(0, gram.shape[-1], _BLOCK):
            part = slice(start, min(start + _BLOCK, gram.shape[-1]))
            moves = np.zeros((*integers.shape[:2], part.stop - start))
            for k in range(start, part.stop):
                own = steps.columns(k)
                now = own.floats(integers[..., k])
                best = own.nearest(now - slope[..., k] / diagonal[:, None, k])
                moves[..., k - start] = own.floats(best) - now
                integers[..., k] = best
                slope[..., part] += moves[..., k - start, None] * gram[:, None, k, part]
            changed += int(np.count_nonzero(moves))
            slope += np.matmul(moves, _without(gram[:, part], part))
        if changed <= _HARDLY_ANY * integers.size:
            break
    return integers


def _without(rows: np.ndarray, part: slice) -> np.ndarray:
    """Return rows with zeros in these columns, which were updated already."""
    rows = rows.copy()
    rows[..., part] = 0
    return rows
