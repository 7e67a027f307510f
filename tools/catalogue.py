"""The catalogue of models for benchmarks and checks: their files and input sizes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import graphopt
from tools.bert import make_bert
from tools.fetch_models import MODELS, cache_folder, fetch
from tools.light import LIGHT, make_light

Shapes = dict[str, tuple[int, ...]]

ENCODERS: dict[str, dict[str, int]] = {"bert": {}, "minilm": {"layers": 6, "hidden": 384}}
"""Transformer encoders with random weights, by their differences from BERT-base."""

_BERT = ("input_ids", "attention_mask", "token_type_ids")


def _each(name: str, *shapes: tuple[int, ...]) -> tuple[Shapes, ...]:
    return tuple({name: shape} for shape in shapes)


SIZES: dict[str, tuple[Shapes, ...]] = {
    "fashion": _each("image", (1, 1, 28, 28), (2, 1, 28, 28), (7, 1, 28, 28)),
    "efficientnet-lite0": _each("image", (1, 3, 224, 224), (2, 3, 224, 224), (3, 3, 224, 224)),
    "magika": _each("bytes", (1, 2048), (2, 2048), (5, 2048)),
    "pp-ocr-det": _each("x", (1, 3, 320, 320), (1, 3, 224, 352), (2, 3, 192, 256)),
    "pp-ocr-rec": _each("x", (1, 3, 48, 320), (1, 3, 48, 200), (2, 3, 48, 160)),
    "pp-ocr-cls": _each("x", (1, 3, 48, 192), (2, 3, 48, 192), (3, 3, 48, 160)),
    "basic-pitch": _each("serving_default_input_2:0", (1, 43844, 1), (2, 43844, 1), (3, 43844, 1)),
    "slovorez": _each("input_layer", (1, 12), (2, 17), (4, 32)),
    "minilm-int8": tuple(dict.fromkeys(_BERT, shape) for shape in ((1, 128), (2, 16), (3, 77))),
    "bert": tuple(dict.fromkeys(_BERT, shape) for shape in ((1, 128), (2, 16), (3, 77))),
    "minilm": tuple(dict.fromkeys(_BERT, shape) for shape in ((1, 32), (2, 16), (3, 77))),
}
"""The input shapes for each model with dynamic dimensions; the first ones are those of benchmarks."""

LACKING = {"silero-vad": "LSTM"}
"""Models that are used to test passes but cannot be compiled yet: the operator that is not supported."""

NAMES = ("fashion", *(name for name in MODELS if name not in LACKING), *LIGHT, *ENCODERS)


@dataclass(frozen=True)
class Entry:
    """A model's name, its file, and the input shapes to run it with ({} if its own are fixed)."""

    name: str
    path: Path
    sizes: tuple[Shapes, ...]


def entry(name: str) -> Entry:
    """Return the model of that name, or the file with that path; fetched or generated first if it is not in the cache.

    Raises FetchError if it is not available, FileNotFoundError if it is neither a name nor a file.
    """
    return Entry(name if name in SIZES or name in NAMES else Path(name).stem, _path(name), SIZES.get(name, ({},)))


def _path(name: str) -> Path:
    if name == "fashion":
        return Path(graphopt.__file__).parent / "demo" / "fashion.onnx"
    if name in MODELS:
        return fetch(name)
    if name in LIGHT or name in ENCODERS:
        return _made(name)
    if not Path(name).is_file():
        raise FileNotFoundError(f"{name} is neither a file nor one of {', '.join(NAMES)}")
    return Path(name)


def _made(name: str) -> Path:
    path = cache_folder() / "made" / f"{name}.onnx"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        model = make_bert(**ENCODERS[name]) if name in ENCODERS else make_light(name)
        part = path.with_suffix(".part")
        part.write_bytes(model.SerializeToString(deterministic=True))
        part.replace(path)
    return path
