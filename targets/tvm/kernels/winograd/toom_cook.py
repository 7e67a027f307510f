"""The transforms of one-dimensional Winograd convolution F(m, 3), exact, for any interpolation points.

F(m, 3) computes m outputs of a correlation with three taps from m + 2 inputs with m + 2 multiplications:

    y = AT @ ((G @ g) * (BT @ d))

(A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv 1509.09308). The points determine how
much rounding is amplified (B. Barabasz et al., "Error Analysis and Improving the Accuracy of Winograd Convolution for
Deep Neural Networks", arXiv 1803.10986). Points in pairs +p and -p share half of the work of both transforms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np

TAPS = 3

Matrix = tuple[tuple[Fraction, ...], ...]

POINTS: dict[int, tuple[Fraction, ...]] = {
    2: (Fraction(0), Fraction(1), Fraction(-1)),
    4: (Fraction(0), Fraction(3, 4), Fraction(-3, 4), Fraction(3, 2), Fraction(-3, 2)),
}
"""The finite points of each variant; the last point is infinity. They are exact in fp32, and so are AT and BT."""


@dataclass(frozen=True)
class Transforms:
    """The matrices of F(m, 3): `output` (AT) is m x (m + 2), `weight` (G) (m + 2) x 3, `input` (BT) square."""

    output: Matrix
    weight: Matrix
    input: Matrix

    @property
    def taps(self) -> tuple[Fraction, Fraction, Fraction]:
        """The factors that recover g from u = G @ g, for points that begin with 0, p and -p.

        g is u[0], u[1] - u[2] and u[-1], each times its factor.
        """
        return 1 / self.weight[0][0], 1 / (2 * self.weight[1][1]), 1 / self.weight[-1][-1]


@lru_cache(maxsize=8)
def transforms(outputs: int) -> Transforms:
    """Return the transforms of F(`outputs`, 3) for its `POINTS`."""
    return transforms_at(POINTS[outputs])


def transforms_at(points: Sequence[Fraction]) -> Transforms:
    """Return the transforms for finite `points`, which must differ, and infinity: F(m, 3) takes m + 1 points."""
    outputs = len(points) - TAPS + 2
    zero, one = Fraction(0), Fraction(1)
    # Row i of AT evaluates x**i at the points; at infinity only the highest power counts.
    output = [[*(p**i for p in points), one if i == outputs - 1 else zero] for i in range(outputs)]
    weight, inputs = [], []
    for p in points:
        others = [q for q in points if q != p]
        scale = math.prod((p - q for q in others), start=one)
        weight.append([p**j / scale for j in range(TAPS)])
        inputs.append([*_polynomial(others), zero])
    weight.append([zero] * (TAPS - 1) + [one])
    inputs.append(_polynomial(points))
    return Transforms(_matrix(output), _matrix(weight), _matrix(inputs))


def transform_weight(weight: np.ndarray, outputs: int) -> np.ndarray:
    """Return G w G^T of each kernel in float64, rounded once: (O, I, 3, 3) to fp32 ((outputs + 2) ** 2, I, O)."""
    g = np.array(transforms(outputs).weight, np.float64)
    channels, depth = weight.shape[:2]
    taps = np.ascontiguousarray(weight.astype(np.float64).reshape(channels, depth, TAPS**2).transpose(2, 1, 0))
    frequencies = np.kron(g, g) @ taps.reshape(TAPS**2, -1)
    return frequencies.astype(np.float32).reshape(len(g) ** 2, depth, channels)


def _polynomial(roots: Sequence[Fraction]) -> list[Fraction]:
    """Return the coefficients, lowest power first, of the product of (x - root)."""
    result = [Fraction(1)]
    for root in roots:
        raised, scaled = [Fraction(0), *result], [*(root * c for c in result), Fraction(0)]
        result = [a - b for a, b in zip(raised, scaled, strict=True)]
    return result


def _matrix(rows: Sequence[Sequence[Fraction]]) -> Matrix:
    return tuple(tuple(row) for row in rows)
