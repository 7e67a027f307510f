"""Feeds from a folder of pictures, by a rule that says how they become what the model takes."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.errors import InputError
from graphopt.ir import DType, Model, Value

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
_LABELS_FILE = "labels.txt"
_EXAMPLE = "write, for instance, 'imagenet' or 'size=224x224,mean=[0.485,0.456,0.406],std=[0.229,0.224,0.225]'"


@dataclass(frozen=True)
class Preprocess:
    """How a picture becomes an input: resized, cut, scaled, normalized, and laid out as the model declares it.

    `resize`: the length of the shorter side before the middle is cut out; 0 stretches the picture instead. `size`:
    height and width, where the model leaves them open. Every element is `(x * scale - mean) / std`, with one mean and
    deviation for all channels or one for each. `colors`: rgb, bgr or gray.
    """

    resize: int = 0
    size: tuple[int, int] | None = None
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    colors: str = "rgb"

    @classmethod
    def parse(cls, text: str) -> Preprocess:
        """A rule as text: `imagenet`, or `name=value` with commas between. Raises InputError for any other."""
        if text.strip() == "imagenet":
            return cls(resize=256, size=(224, 224), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
        values: dict[str, Any] = {}
        for part in filter(None, re.split(r",(?![^\[]*\])", text.replace(" ", ""))):
            name, _, value = part.partition("=")
            try:
                values[name] = _READERS[name](value)
            except (KeyError, ValueError) as error:
                names = ", ".join(field.name for field in dataclasses.fields(cls))
                raise InputError(
                    f"cannot read '{part}' in the rule for pictures", remedy=f"{_EXAMPLE}; it has {names}"
                ) from error
        return cls(**values)

    def apply(self, path: Path, value: Value) -> np.ndarray:
        """The picture in a file as an input of the model, with a batch of one where the input has four dimensions.

        Raises InputError if Pillow is missing, if the file is no picture, or if the input is none.
        """
        image = _pillow()
        channels_last, height, width = self._layout(value)
        mode = "L" if self.colors == "gray" else "RGB"
        try:
            with image.open(path) as file:
                picture = self._fitted(file.convert(mode), height, width, image)
        except (OSError, ValueError) as error:
            raise InputError(f"cannot be read as a picture ({error})", where=str(path)) from error
        array = np.asarray(picture, np.float64).reshape(height, width, -1)
        array = array[..., ::-1] if self.colors == "bgr" else array
        array = (array * self.scale - np.array(self.mean)) / np.array(self.std)
        array = array if channels_last else array.transpose(2, 0, 1)
        assert value.dtype is not None
        if value.dtype.is_integer:
            info = np.iinfo(value.dtype.numpy)
            array = np.clip(np.rint(array), info.min, info.max)
        shaped = array[None] if value.rank == 4 else array
        return np.ascontiguousarray(shaped.astype(value.dtype.numpy))

    def _fitted(self, picture: Any, height: int, width: int, image: Any) -> Any:
        if not self.resize:
            return picture.resize((width, height), image.Resampling.BILINEAR)
        factor = max(self.resize / min(picture.size), width / picture.width, height / picture.height)
        scaled = [max(round(side * factor), least) for side, least in zip(picture.size, (width, height))]
        picture = picture.resize(tuple(scaled), image.Resampling.BILINEAR)
        left, top = (picture.width - width) // 2, (picture.height - height) // 2
        return picture.crop((left, top, left + width, top + height))

    def _layout(self, value: Value) -> tuple[bool, int, int]:
        """Return whether channels come last, and the height and width."""
        shape = value.shape
        if shape is None or len(shape) not in (3, 4) or value.dtype in (None, DType.STRING, DType.BOOL):
            raise InputError(f"input '{value.name}' ({value.type}) is no picture", remedy="give arrays (.npz) instead")
        count = 1 if self.colors == "gray" else 3
        sizes = shape[-3:]
        channels_last = sizes[0] != count and sizes[2] == count
        if not channels_last and isinstance(sizes[0], int) and sizes[0] != count:
            raise InputError(
                f"input '{value.name}' ({value.type}) has {sizes[0]} channels, and pictures in {self.colors} {count}",
                remedy="set colors=rgb, bgr or gray in the rule for pictures (--preprocess)",
            )
        space = sizes[:2] if channels_last else sizes[1:]
        given = self.size or (None, None)
        height, width = (dim if isinstance(dim, int) else wanted for dim, wanted in zip(space, given))
        if height is None or width is None:
            raise InputError(
                f"input '{value.name}' ({value.type}) leaves the size of pictures open",
                remedy="set size=HxW in the rule for pictures (--preprocess)",
            )
        return channels_last, height, width


def _numbers(text: str) -> tuple[float, ...]:
    numbers = tuple(float(part) for part in text.strip("[]").split(","))
    if len(numbers) not in (1, 3):
        raise ValueError("one number, or one for each channel")
    return numbers


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    return int(height), int(width or height)


def _fraction(text: str) -> float:
    above, _, below = text.partition("/")
    return float(above) / float(below or 1)


def _colors(text: str) -> str:
    if text not in ("rgb", "bgr", "gray"):
        raise ValueError(text)
    return text


_READERS: dict[str, Callable[[str], Any]] = {
    "resize": int,
    "size": _size,
    "scale": _fraction,
    "mean": _numbers,
    "std": _numbers,
    "colors": _colors,
}


def is_pictures(source: Any) -> bool:
    """Return whether a source of samples is a folder with pictures in it."""
    if not isinstance(source, str | Path) or not Path(source).is_dir():
        return False
    return any(file.suffix.lower() in SUFFIXES for file in Path(source).rglob("*"))


def check_rule(preprocess: Preprocess | str | None, sources: Iterable[Any]) -> None:
    """Raise InputError for a rule for pictures where none of the sources is a folder of pictures."""
    if preprocess is not None and not any(is_pictures(source) for source in sources):
        raise InputError("a rule for pictures was given, and no folder of pictures", remedy="leave it out")


def image_feeds(
    path: Path, model: Model, values: Mapping[str, Value], preprocess: Preprocess | str | None
) -> Callable[[], Iterable[dict[str, Any]]]:
    """A function that reads the feeds of a folder of pictures, in the order of their paths.

    Raises InputError if the model has several inputs, or if there is no rule for pictures.
    """
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
    if len(values) != 1:
        raise InputError(
            f"pictures serve models of one input; this one has {', '.join(values)}",
            where=model.name,
            remedy="give a folder of .npz files instead",
        )
    if preprocess is None:
        raise InputError(
            "pictures need a rule that makes inputs of them (--preprocess)", where=str(path), remedy=_EXAMPLE
        )
    rule = Preprocess.parse(preprocess) if isinstance(preprocess, str) else preprocess
    value = next(iter(values.values()))
    _pillow()
    rule._layout(value)
    labels = _labels(path)

    def feeds() -> Iterator[dict[str, Any]]:
        for file in files:
            feed: dict[str, Any] = {value.name: rule.apply(file, value)}
            name = file.relative_to(path).as_posix()
            if labels is not None:
                if name not in labels:
                    raise InputError(f"'{name}' has no line", where=str(path / _LABELS_FILE))
                feed["labels"] = np.array([labels[name]])
            yield feed

    return feeds


def _labels(folder: Path) -> dict[str, int] | None:
    """The class of each picture by its path in the folder, where the folder has a file of them."""
    path = folder / _LABELS_FILE
    if not path.is_file():
        return None
    labels = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        name, _, label = line.strip().replace(",", " ").rpartition(" ")
        if line.strip():
            if not label.isdecimal() or not name:
                raise InputError(
                    f"cannot read line {number}: '{line}'", where=str(path), remedy="write NAME CLASS on each line"
                )
            labels[name.strip()] = int(label)
    return labels


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise InputError("reading pictures needs the package Pillow", remedy="pip install pillow") from None
    return Image
