"""Generation of arrays that respect what an input means."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping

import numpy as np

from graphopt.ir import DType, Shape, Use, Value

from .meaning import Kind, Meaning


class Mood(enum.Enum):
    """The character of floating-point inputs about which the graph reveals nothing.

    USUAL: mean 0 and deviation 1, smooth images. CONTRAST: images with hard edges. POSITIVE: within (0, 1).
    """

    USUAL = 0
    CONTRAST = 1
    POSITIVE = 2


def fill(
    value: Value,
    meaning: Meaning,
    shape: tuple[int, ...],
    rng: np.random.Generator,
    sizes: Mapping[str, int],
    mood: Mood = Mood.USUAL,
) -> np.ndarray:
    """Return an array for graph input `value`.

    Arguments:
        value, meaning: the input and what it means.
        shape: of the array.
        rng: the source of random numbers.
        sizes: the chosen symbolic sizes, for arguments that must be consistent with them.
        mood: the character of floating-point inputs without a known meaning.
    """
    dtype = value.dtype
    assert dtype is not None
    if dtype is DType.STRING:
        return rng.integers(0, 100, shape).astype(str).astype(object)
    if meaning.kind is Kind.SHAPE and meaning.use is not None:
        argument = _argument(meaning.use, shape, sizes)
        if argument is not None:
            return argument.astype(dtype.numpy)
    if dtype is DType.BOOL:
        return _mask(shape, rng).astype(np.bool_)
    if dtype in (DType.COMPLEX64, DType.COMPLEX128):
        return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(dtype.numpy)
    if dtype.is_float:
        return _floats(meaning, shape, rng, mood).astype(dtype.numpy)
    return _integers(meaning, dtype, shape, rng).astype(dtype.numpy)


def _mask(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Return ones, then zeros, along the last axis, like a batch of padded sentences; the first row has no padding."""
    if not shape:
        return np.ones((), np.int64)
    length = shape[-1]
    rows = math.prod(shape[:-1])
    kept = rng.integers((length + 1) // 2, max(length, 2), (rows, 1))
    if rows > 1:
        kept[0] = length
    return (np.arange(length)[None, :] < kept).astype(np.int64).reshape(shape)


def _integers(meaning: Meaning, dtype: DType, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    info = np.iinfo(dtype.numpy) if dtype.bits >= 8 else None
    low, high = (int(info.min), int(info.max)) if info is not None else _small_range(dtype)
    if meaning.kind is Kind.INDEX:
        return rng.integers(0, min(meaning.bound, high + 1), shape)
    if meaning.kind is Kind.CHOICE:
        return np.full(shape, meaning.values[0])
    if meaning.kind is Kind.MASK:
        return _mask(shape, rng)
    if meaning.kind is Kind.LENGTH:
        return rng.integers(max(1, meaning.bound // 2), meaning.bound + 1, shape)
    if meaning.kind in (Kind.NONZERO, Kind.POSITIVE, Kind.UNIT, Kind.SHAPE):
        return rng.integers(1, 4, shape)
    if dtype.bits <= 8:
        return rng.integers(low, high + 1, shape)
    return rng.integers(0, 16, shape)


def _small_range(dtype: DType) -> tuple[int, int]:
    signed = dtype in (DType.INT4, DType.INT2)
    levels = 1 << dtype.bits
    return (-levels // 2, levels // 2 - 1) if signed else (0, levels - 1)


def _floats(meaning: Meaning, shape: tuple[int, ...], rng: np.random.Generator, mood: Mood) -> np.ndarray:
    if meaning.kind is Kind.MASK:
        return _mask(shape, rng)
    if meaning.kind is Kind.UNIT:
        return rng.uniform(0.05, 0.95, shape)
    if meaning.kind is Kind.POSITIVE:
        return rng.uniform(1.0, 2.0, shape)
    if meaning.kind is Kind.NONZERO:
        return rng.uniform(0.5, 2.0, shape) * rng.choice([-1.0, 1.0], shape)
    if mood is Mood.POSITIVE:
        return rng.uniform(0.1, 1.0, shape)
    if len(shape) == 4 and min(shape[2:]) >= 8:
        return _image(shape, rng)
    return rng.standard_normal(shape)


def _image(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Return smooth patterns with a little noise at the top and lines of writing at the bottom, like photos and pages.

    For a photo without text, a text detector returns numbers near zero, of which only rounding remains to be compared.
    """
    y, x = np.meshgrid(np.linspace(0, 1, shape[2]), np.linspace(0, 1, shape[3]), indexing="ij")
    image = 0.3 * rng.standard_normal(shape)
    for _ in range(3):
        fy, fx, phase = rng.uniform(0.5, 6, (3, shape[0], shape[1], 1, 1))
        image += 0.8 * np.sin(2 * np.pi * (fy * y + fx * x + phase))
    page = image[:, :, shape[2] // 2 :]
    page[...] = _writing(page.shape, rng)
    return image


def _writing(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Return dark characters of 7 x 5 dots on a light background, in lines; the same in all channels."""
    height, width = shape[2:]
    dot = 2 if height >= 32 else 1
    rows, columns = -(-height // (10 * dot)), -(-width // (6 * dot))
    signs = rng.random((shape[0], rows, columns, 7, 5)) < 0.45
    cells = np.zeros((shape[0], rows, columns, 10, 6), bool)
    cells[..., 2:9, 1:] = signs
    dots = cells.transpose(0, 1, 3, 2, 4).reshape(shape[0], rows * 10, columns * 6)
    dark = np.kron(dots, np.ones((1, dot, dot), bool))[:, None, :height, :width]
    return np.broadcast_to(np.where(dark, -2.0, 2.0), shape)


def _known(shape: Shape | None, sizes: Mapping[str, int]) -> tuple[int, ...] | None:
    """Return a shape in numbers, or None if one of its sizes is not among the chosen ones."""
    if shape is None:
        return None
    numbers = [sizes.get(dim, 0) if isinstance(dim, str) else dim or 0 for dim in shape]
    return tuple(numbers) if all(numbers) else None


def _argument(use: Use, shape: tuple[int, ...], sizes: Mapping[str, int]) -> np.ndarray | None:
    """Return an argument such as a shape or axes that is valid for operator `use.node`; `shape` is its own shape."""
    count = math.prod(shape)
    node = use.node
    data = node.input(0)
    into = _known(data.shape if data is not None else None, sizes)
    out = _known(node.outputs[0].shape, sizes) if node.outputs else None
    maker = _ARGUMENTS.get((node.op_type, use.index))
    if node.op_type == "Split" and into is not None:
        into = into[node.attr("axis", 0) :][:1]
    if node.op_type.startswith("Reduce"):
        return np.arange(count).reshape(shape)
    if maker is None:
        return None
    made = np.asarray(maker(count, into, out))
    return made.reshape(shape) if made.size == count else None


_Sizes = tuple[int, ...] | None
_Maker = Callable[[int, _Sizes, _Sizes], object]


def _reshaped(count: int, into: _Sizes, out: _Sizes) -> object:
    return out if out is not None and len(out) == count else [-1] + [1] * (count - 1)


def _expanded(count: int, into: _Sizes, out: _Sizes) -> object:
    return out if out is not None and len(out) == count else [1] * count


def _created(count: int, into: _Sizes, out: _Sizes) -> object:
    return out if out is not None and len(out) == count else [2] * count


def _unit_axes(count: int, into: _Sizes, out: _Sizes) -> object:
    units = [axis for axis, size in enumerate(into or ()) if size == 1]
    return units[:count] if len(units) >= count else list(range(count))


def _parts(count: int, into: _Sizes, out: _Sizes) -> object:
    """Return parts of an axis (the first size of `into`), all equal except the last, which takes the remainder."""
    length = into[0] if into else count
    part = length // max(count, 1)
    return [part] * (count - 1) + [length - part * (count - 1)]


def _upscaled(count: int, into: _Sizes, out: _Sizes) -> object:
    return [1.0] * min(2, count) + [2.0] * (count - 2) if count > 2 else [2.0] * count


def _resized(count: int, into: _Sizes, out: _Sizes) -> object:
    if out is not None and len(out) == count:
        return out
    return [size * 2 if axis >= 2 else size for axis, size in enumerate(into)] if into else [8] * count


def _constant(value: int) -> _Maker:
    return lambda count, into, out: [value] * count


def _increasing(count: int, into: _Sizes, out: _Sizes) -> object:
    return list(range(count))


_ARGUMENTS: dict[tuple[str, int], _Maker] = {
    ("Reshape", 1): _reshaped,
    ("Expand", 1): _expanded,
    ("Tile", 1): _constant(2),
    ("ConstantOfShape", 0): _created,
    ("CenterCropPad", 1): _created,
    ("Slice", 1): _constant(0),
    ("Slice", 2): _constant(1 << 16),
    ("Slice", 3): _increasing,
    ("Slice", 4): _constant(1),
    ("Pad", 1): _constant(1),
    ("Pad", 3): _increasing,
    ("Squeeze", 1): _unit_axes,
    ("Unsqueeze", 1): _increasing,
    ("Split", 1): _parts,
    ("SplitToSequence", 1): _parts,
    ("Upsample", 1): _upscaled,
    ("Resize", 1): lambda count, into, out: [0.0] * (count // 2) + [1.0] * (count - count // 2),
    ("Resize", 2): _upscaled,
    ("Resize", 3): _resized,
    ("Range", 0): _constant(0),
    ("Range", 1): _constant(5),
    ("Range", 2): _constant(1),
    ("Loop", 0): _constant(3),
    ("Loop", 1): _constant(1),
    ("TopK", 1): _constant(1),
    ("CumSum", 1): _constant(0),
    ("CumProd", 1): _constant(0),
    ("DFT", 2): _constant(1),
    ("TensorScatter", 2): _constant(0),
    ("Trilu", 1): _constant(0),
    ("OneHot", 1): _constant(8),
    ("SequenceAt", 1): _constant(0),
    ("SequenceInsert", 2): _constant(0),
    ("SequenceErase", 1): _constant(0),
}
