"""Samples from a folder of images, with a rule that turns them into inputs."""

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
_EXAMPLE = "write for example 'imagenet' or 'size=224x224,mean=[0.485,0.456,0.406],std=[0.229,0.224,0.225]'"


@dataclass(frozen=True)
class Preprocess:
    """A rule that turns an image into an input: resized, cropped, scaled, normalized, and in the model's layout.

    `resize`: the length of the shorter side before the centre is cropped; 0 stretches the image instead. `size`: height
    and width, if the model leaves them open. Every element is `(x * scale - mean) / std`, with one mean and deviation
    for all channels or one per channel. `colors`: rgb, bgr or gray.
    """

    resize: int = 0
    size: tuple[int, int] | None = None
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    colors: str = "rgb"

    @classmethod
    def parse(cls, text: str) -> Preprocess:
        """Parse a rule: `imagenet`, or `name=value` separated by commas. Raises InputError for anything else."""
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
                    f"cannot read '{part}' in the preprocessing rule", remedy=f"{_EXAMPLE}; it has {names}"
                ) from error
        return cls(**values)

    def apply(self, path: Path, value: Value) -> np.ndarray:
        """Return the image in a file as an input of the model, with batch size 1 if the input has four dimensions.

        Raises InputError if Pillow is missing, if the file is not an image, or if the input does not take images.
        """
        image = _pillow()
        channels_last, height, width = self._layout(value)
        mode = "L" if self.colors == "gray" else "RGB"
        try:
            with image.open(path) as file:
                picture = self._fitted(file.convert(mode), height, width, image)
        except (OSError, ValueError) as error:
            raise InputError(f"cannot be read as an image ({error})", where=str(path)) from error
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
            raise InputError(
                f"input '{value.name}' ({value.type}) does not take images", remedy="use arrays (.npz) instead"
            )
        count = 1 if self.colors == "gray" else 3
        sizes = shape[-3:]
        channels_last = sizes[0] != count and sizes[2] == count
        if not channels_last and isinstance(sizes[0], int) and sizes[0] != count:
            raise InputError(
                f"input '{value.name}' ({value.type}) has {sizes[0]} channels, but {self.colors} images have {count}",
                remedy="set colors=rgb, bgr or gray in the preprocessing rule (--preprocess)",
            )
        space = sizes[:2] if channels_last else sizes[1:]
        given = self.size or (None, None)
        height, width = (dim if isinstance(dim, int) else wanted for dim, wanted in zip(space, given))
        if height is None or width is None:
            raise InputError(
                f"input '{value.name}' ({value.type}) leaves the size of images open",
                remedy="set size=HxW in the preprocessing rule (--preprocess)",
            )
        return channels_last, height, width


def _numbers(text: str) -> tuple[float, ...]:
    numbers = tuple(float(part) for part in text.strip("[]").split(","))
    if len(numbers) not in (1, 3):
        raise ValueError("one number, or one per channel")
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
    """Return whether a source of samples is a folder with images in it."""
    if not isinstance(source, str | Path) or not Path(source).is_dir():
        return False
    return any(file.suffix.lower() in SUFFIXES for file in Path(source).rglob("*"))


def check_rule(preprocess: Preprocess | str | None, sources: Iterable[Any]) -> None:
    """Raise InputError for a preprocessing rule if none of the sources is a folder of images."""
    if preprocess is not None and not any(is_pictures(source) for source in sources):
        raise InputError("there is a preprocessing rule, but no folder of images", remedy="leave it out")


def image_feeds(
    path: Path, model: Model, values: Mapping[str, Value], preprocess: Preprocess | str | None
) -> Callable[[], Iterable[dict[str, Any]]]:
    """Return a function that reads the samples of a folder of images, in the order of their paths.

    Raises InputError if the model has several inputs, or if there is no preprocessing rule.
    """
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
    if len(values) != 1:
        raise InputError(
            f"images can be used only for models with one input; this one has {', '.join(values)}",
            where=model.name,
            remedy="use a folder of .npz files instead",
        )
    if preprocess is None:
        raise InputError("images need a preprocessing rule (--preprocess)", where=str(path), remedy=_EXAMPLE)
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
    """Return the class of each image by its path in the folder, if the folder has a file of labels."""
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
        raise InputError("reading images needs the package Pillow", remedy="pip install pillow") from None
    return Image
