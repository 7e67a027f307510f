"""Quantized weights: the axis of their channels, and the ranges of channels and groups."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from graphopt.compression.scales import IntegerScheme, Scale
from graphopt.ir import Node

_PARTS = np.linspace(0.5, 1.0, 26)
"""The parts of the range of a channel that are tried for the least error."""
_AT_ONCE = 1 << 16
"""How many weights are looked at together: so many, and what is computed of them, fit into a cache."""


def channel_axis(node: Node, rank: int) -> int | None:
    """Return the axis of a product's weights along which its results lie; None if groups share it."""
    if node.op == "Conv":
        return 0
    if node.op == "ConvTranspose":
        return 1 if node.attr("group", 1) == 1 else None
    if node.op == "Gemm":
        return 0 if node.attr("transB", 0) else 1
    return rank - 1


def fit_weights(array: np.ndarray, axis: int | None, scheme: IntegerScheme, least_error: bool) -> Scale:
    """Return the scale of all weights, or of each channel along `axis`.

    With `least_error`, ranges are narrowed where that lowers the squared error; the largest weights are then clipped.
    """
    rest = tuple(i for i in range(array.ndim) if i != axis)
    if not least_error:
        return scheme.fit(array.min(rest), array.max(rest))
    if axis is None:
        return _least_error(array, axis, scheme)
    parts = np.array_split(np.moveaxis(array, axis, 0), max(1, min(array.shape[axis], array.size // _AT_ONCE)))
    found = [_least_error(np.ascontiguousarray(part), 0, scheme) for part in parts]
    points = np.concatenate([one.zero_point for one in found])
    return Scale(scheme, np.concatenate([one.scale for one in found]), points)


def _least_error(array: np.ndarray, axis: int | None, scheme: IntegerScheme) -> Scale:
    """Return the scales with the least squared error of weights, of all of them or of each channel."""
    rest = tuple(i for i in range(array.ndim) if i != axis)
    low, high = array.min(rest), array.max(rest)
    best, parts = np.full(low.shape, np.inf), np.ones(low.shape)
    for part in _PARTS[::-1]:
        error = _error(array, scheme.fit(low * part, high * part), axis)
        parts = np.where(error < best, part, parts)
        best = np.minimum(best, error)
    found = scheme.fit(low * parts, high * parts)
    return found if scheme.power_of_two else _refined(array, found, axis, best)


def fit_groups(rows: np.ndarray, group: int, scheme: IntegerScheme, least_error: bool) -> Scale:
    """Return scales and zero points [N, G] for groups of that many neighbours in the rows of a matrix [N, K].

    The last group of a row may be smaller.
    """
    scale = fit_weights(_padded(rows, group).reshape(-1, group), 0, scheme, least_error)
    shape = (rows.shape[0], -1)
    return Scale(scheme, scale.scale.reshape(shape), scale.zero_point.reshape(shape))


def quantize_groups(rows: np.ndarray, group: int, scale: Scale) -> np.ndarray:
    """Return the integers [N, K] for a matrix and the scales of its groups."""
    flat = Scale(scale.scheme, scale.scale.ravel(), scale.zero_point.ravel())
    padded = _padded(rows, group)
    return flat.quantize(padded.reshape(-1, group), 0).reshape(padded.shape)[:, : rows.shape[1]]


def binary_groups(rows: np.ndarray, group: int, scheme: IntegerScheme) -> tuple[np.ndarray, np.ndarray]:
    """Return the best scales [N, G] and signs [N, K], of the scheme's type, for weights that are a scale or minus it.

    The mean magnitude of a group has the least squared error. Of powers of two, the one next to it has.
    """
    padded = np.abs(_padded(rows, group).astype(np.float64))
    sizes = np.full(padded.shape[1] // group, group)
    sizes[-1] -= padded.shape[1] - rows.shape[1]
    means = padded.reshape(rows.shape[0], -1, group).sum(2) / sizes
    means = np.maximum(means, np.finfo(np.float32).tiny)
    if scheme.power_of_two:
        lower = np.exp2(np.floor(np.log2(means)))
        means = np.where(means < 1.5 * lower, lower, 2 * lower)
    return means.astype(np.float32), np.where(rows < 0, -1, 1).astype(np.int8).astype(scheme.numpy)


def _padded(rows: np.ndarray, group: int) -> np.ndarray:
    """Fill the last group of each row with zeros, which change neither its range nor its error."""
    return np.pad(rows, ((0, 0), (0, -rows.shape[1] % group)))


def _error(array: np.ndarray, scale: Scale, axis: int | None) -> np.ndarray:
    """Return the squared error of all weights, or of each channel."""
    rest = tuple(i for i in range(array.ndim) if i != axis)
    apart = scale.rounded(array, axis)
    apart -= array
    error: np.ndarray = np.square(apart, out=apart).sum(rest, dtype=np.float64)
    return error


def _refined(array: np.ndarray, scale: Scale, axis: int | None, error: np.ndarray) -> Scale:
    """Return the scales that fit the chosen integers best (least squares), where they lower the error."""
    rest = tuple(i for i in range(array.ndim) if i != axis)
    for _ in range(3):
        steps = replace(scale, scale=np.ones_like(scale.scale)).dequantize(scale.quantize(array, axis), axis)
        steps = steps.astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            fitted = ((array * steps).sum(rest) / np.square(steps).sum(rest)).astype(np.float32)
        usable = np.isfinite(fitted) & (fitted >= np.finfo(np.float32).tiny)
        tried = replace(scale, scale=np.where(usable, fitted, scale.scale))
        lower = (found := _error(array, tried, axis)) < error
        if not np.any(lower):
            break
        scale = replace(scale, scale=np.where(lower, tried.scale, scale.scale))
        error = np.minimum(found, error)
    return scale
