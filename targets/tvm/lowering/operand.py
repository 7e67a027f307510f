"""Values of the graph during lowering: constants, vectors of shape arithmetic, or tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from tvm import relax, tirx

Dim: TypeAlias = int | tirx.Expr
"""A dimension: a number, or an integer expression over the model's symbolic sizes."""


@dataclass(frozen=True)
class Quantized:
    """The constants that DequantizeLinear read, and its axis and block size (0 if scales are not in blocks)."""

    integers: Operand
    scale: Operand
    zero: Operand | None
    axis: int
    block: int


@dataclass(frozen=True)
class Scaled:
    """What floats are computed as: the integers, minus a zero point, times a scale."""

    integers: Operand
    scale: float
    zero: int


class Operand:
    """A value during lowering, in one of three forms.

    * a host constant: `array` returns its elements (read only on demand);
    * host scalars: `elements` is an object array of Python numbers and symbolic expressions, as computed by shape
      arithmetic. They are known when the shapes are, so that reshaping or slicing by them needs no kernel;
    * a tensor that the compiled code computes: `expr`.

    For the first two, the context fills in `expr` when a kernel needs them as tensors.

    `key` of a host constant says where its elements come from: constants with equal keys are equal, so that a weight
    with several consumers is stored once. `quantized`: where a constant of floats comes from, if it is dequantized.
    `narrow`: the value of 16-bit floats that it was cast from, with the same elements, if it is a constant or bfloat16.
    `scaled`: the integers that a tensor of floats is computed from, if it is dequantized with one scale.
    """

    __slots__ = (
        "_pieces",
        "_read",
        "dtype",
        "elements",
        "expr",
        "key",
        "name",
        "narrow",
        "quantized",
        "scaled",
        "shape",
    )

    def __init__(
        self,
        dtype: str,
        shape: Sequence[Dim],
        *,
        read: Callable[[], np.ndarray] | None = None,
        elements: np.ndarray | None = None,
        expr: relax.Expr | None = None,
        name: str = "",
        key: tuple[Hashable, ...] = (),
    ) -> None:
        self.dtype = dtype
        self.shape: tuple[Dim, ...] = tuple(shape)
        self._read = read
        self.elements = elements
        self.expr = expr
        self.name = name
        self.key = key or (object(),)
        self.quantized: Quantized | None = None
        self.narrow: Operand | None = None
        self.scaled: Scaled | None = None
        self._pieces: Callable[[], Iterator[np.ndarray]] | None = None

    @classmethod
    def constant(cls, array: np.ndarray, name: str = "") -> Operand:
        """Return a host constant with the contents of `array`."""
        return cls(str(array.dtype), array.shape, read=lambda: array, name=name)

    @classmethod
    def symbolic(cls, elements: np.ndarray, dtype: str) -> Operand:
        """Return host scalars, or an ordinary constant if none of them is symbolic."""
        if all(isinstance(item, int | float | bool) for item in elements.ravel()):
            return cls.constant(elements.astype(np.dtype(dtype)))
        return cls(dtype, elements.shape, elements=elements)

    def derived(
        self,
        shape: Sequence[int],
        how: tuple[Hashable, ...],
        change: Callable[[np.ndarray], np.ndarray],
        pieces: Callable[[np.ndarray], Iterator[np.ndarray]] | None = None,
        dtype: str | None = None,
    ) -> Operand:
        """Return the constant of `shape` that `change` computes from this one; nothing is read until it is needed.

        `how` identifies the change: equal operands with equal changes have equal results. `pieces` yields the result
        of `change` in consecutive parts, if the whole would take much memory in addition to the original. `dtype`: the
        type of the result if it is another.
        """

        def read() -> np.ndarray:
            array = self.array
            assert array is not None
            return change(array)

        def parts() -> Iterator[np.ndarray]:
            array = self.array
            assert array is not None
            assert pieces is not None
            return pieces(array)

        made = Operand(dtype or self.dtype, shape, read=read, name=self.name, key=(*self.key, *how))
        made._pieces = None if pieces is None else parts
        return made

    def pieces(self) -> Iterator[np.ndarray]:
        """Yield the elements of a host constant in row-major order, in parts of any shape; see `derived`."""
        if self._pieces is not None:
            yield from self._pieces()
            return
        array = self.array
        assert array is not None
        yield array

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def array(self) -> np.ndarray | None:
        """The elements of a host constant, None for the other forms."""
        return self._read() if self._read is not None else None

    @property
    def is_constant(self) -> bool:
        return self._read is not None

    @property
    def is_host(self) -> bool:
        """Whether its elements are known before the compiled code runs, apart from symbolic sizes."""
        return self._read is not None or self.elements is not None

    @property
    def size(self) -> int | None:
        """The number of elements, None if that is symbolic."""
        if all(isinstance(dim, int) for dim in self.shape):
            return math.prod(int(dim) for dim in self.shape)
        return None

    @property
    def is_float(self) -> bool:
        return self.dtype.startswith(("float", "bfloat"))

    def scalars(self) -> np.ndarray:
        """Return host elements as an object array of Python numbers and expressions. Only for host operands."""
        if self.elements is not None:
            return self.elements
        array = self.array
        assert array is not None
        result = np.empty(array.shape, object)
        result[...] = array.astype(object) if array.dtype.kind in "biuf" else array.astype(np.float64).astype(object)
        return result

    def __repr__(self) -> str:
        form = "constant" if self.is_constant else "symbolic" if self.elements is not None else "tensor"
        return f"Operand({form} {self.dtype}{list(self.shape)})"
