"""What published networks are to keep doing after quantization: inputs to calibrate on, others to judge with."""

from __future__ import annotations

import re
import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tools.quantizing.photos import photos

Feed = dict[str, np.ndarray]
Outputs = Mapping[str, np.ndarray]
_FLOATS = "O0,fold-constants{limit=100000000}"
"""Makes floats of weights that the file stores as Mul(Cast(integers), scale)."""
ROOT = Path(__file__).resolve().parent.parent.parent
_FONTS = ("DejaVuSans.ttf", "DejaVuSerif.ttf", "DejaVuSansMono.ttf", "DejaVuSans-Bold.ttf")


@dataclass(frozen=True)
class Task:
    """A model of the catalogue, its inputs, and when two results for the same input are the same.

    `feeds(count, judge)`: other inputs to judge with than to calibrate on. `alike(floats, integers)`: 0 to 1.
    `needed`: the average to be reached over `count` inputs. `first`: passes that make the float model of the file.
    """

    model: str
    what: str
    count: int
    feeds: Callable[[int, bool], list[Feed]]
    alike: Callable[[Outputs, Outputs], float]
    needed: float
    first: str = ""


def _line(rng: np.random.Generator, words: list[str]) -> np.ndarray:
    """A rendered line of text as PaddleOCR's recognition wants it: float32 1 x 3 x 48 x W between -1 and 1."""
    text = " ".join(rng.choice(words, rng.integers(1, 6)))
    font = ImageFont.truetype(str(rng.choice(_FONTS)), int(rng.integers(26, 36)))
    left, top, right, bottom = font.getbbox(text)
    paper, ink = int(rng.integers(200, 256)), int(rng.integers(0, 80))
    image = Image.new("L", (int(right - left) + 16, int(bottom - top) + 14), paper)
    ImageDraw.Draw(image).text((8 - left, 7 - top), text, fill=ink, font=font)
    image = image.resize((max(round(image.width * 48 / image.height), 48), 48), Image.Resampling.BILINEAR)
    gray = (np.asarray(image, np.float32) / 255 - 0.5) / 0.5
    return np.repeat(gray[None, None], 3, 1)


def lines(count: int, judge: bool) -> list[Feed]:
    """Words of the guides, in several fonts and shades."""
    text = "\n".join(path.read_text() for path in sorted((ROOT / "docs").glob("*.md")))
    words = sorted(set(re.findall(r"[A-Za-z][a-z]{2,11}|\d{2,5}", text)))
    rng = np.random.default_rng(1 + judge)
    return [{"x": _line(rng, words)} for _ in range(count)]


def crops(count: int, judge: bool) -> list[Feed]:
    """Parts of photos, of 120 pixels up to all of them."""
    pictures = photos(judge)
    rng = np.random.default_rng(1 + judge)
    feeds = []
    for number in range(count):
        photo = pictures[number % len(pictures)]
        size = int(rng.integers(120, min(photo.size) + 1))
        left, top = (int(rng.integers(0, side - size + 1)) for side in photo.size)
        part = photo.resize((224, 224), Image.Resampling.BILINEAR, (left, top, left + size, top + size))
        pixels = (np.asarray(part, np.float32) - 127) / 128
        feeds.append({"image": np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])})
    return feeds


def files(count: int, judge: bool) -> list[Feed]:
    """The first and last kilobyte of files of this machine, at most forty of a kind, as magika reads them."""
    kinds: dict[str, int] = {}
    chosen = []
    folders = (Path(sysconfig.get_paths()["stdlib"]), Path(sysconfig.get_paths()["purelib"]), Path("/usr/share"))
    paths = (path for folder in folders for depth in ("*/*", "*/*/*") for path in sorted(folder.glob(depth)))
    for path in paths:
        if len(chosen) < 2 * count and path.is_file() and not path.is_symlink() and path.stat().st_size > 64:
            kinds[path.suffix] = kinds.get(path.suffix, 0) + 1
            chosen += [path] if kinds[path.suffix] <= 40 else []
    return [{"bytes": _ends(path)[None]} for path in chosen[int(judge) :: 2][:count]]


def _ends(path: Path) -> np.ndarray:
    content = path.read_bytes()
    first, last = content[:4096].lstrip()[:1024], content[-4096:].rstrip()[-1024:]
    ends = np.full(2048, 256, np.int32)
    ends[: len(first)] = list(first)
    ends[2048 - len(last) :] = list(last)
    return ends


def sentences(count: int, judge: bool) -> list[Feed]:
    """Sequences of tokens: their frequencies are those of words, their order is random."""
    rng = np.random.default_rng(1 + judge)
    feeds = []
    for _ in range(count):
        length = int(rng.integers(8, 65))
        tokens = 1000 + np.minimum(rng.zipf(1.2, length), 29000)
        ids = np.array([[101, *tokens, 102]], np.int64)
        feeds.append({"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)})
    return feeds


def same_text(floats: Outputs, integers: Outputs) -> float:
    """Whether the same characters are read: the most probable ones, without repetitions, blanks and outer spaces.

    Whether a line begins with a space depends on its margin, which is the same in all lines here, and just wide enough.
    """
    return float(_read(floats) == _read(integers))


def _read(outputs: Outputs) -> list[int]:
    (scores,) = next(iter(outputs.values()))
    best, space = scores.argmax(-1), scores.shape[-1] - 1
    found = [int(c) for i, c in enumerate(best) if c and (i == 0 or c != best[i - 1])]
    inner = [i for i, c in enumerate(found) if c != space]
    return found[inner[0] : inner[-1] + 1] if inner else []


def same_class(floats: Outputs, integers: Outputs) -> float:
    a, b = next(iter(floats.values())), next(iter(integers.values()))
    return float((a.argmax(-1) == b.argmax(-1)).mean())


def cosine(floats: Outputs, integers: Outputs) -> float:
    """The cosine of the average vectors of the tokens."""
    a, b = (next(iter(outputs.values())).astype(np.float64)[0].mean(0) for outputs in (floats, integers))
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


TASKS = {
    task.model: task
    for task in (
        Task("pp-ocr-rec", "rendered lines read as before", 200, lines, same_text, 0.95),
        Task("efficientnet-lite0", "crops of photos with the same top class", 500, crops, same_class, 0.95),
        Task("magika", "files with the same type", 300, files, same_class, 0.98),
        Task("minilm-int8", "cosine of the sentences' vectors", 200, sentences, cosine, 0.98, _FLOATS),
    )
}
