"""Quantized files as others write them: the networks, their inputs, and the quantizers of ONNX Runtime and NNCF."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from graphopt.cli.demo import load_images
from tools import suite
from tools.bert import make_bert
from tools.quantizing.networks import NETWORKS
from tools.quantizing.tasks import Feed, crops, sentences

_LENGTH = 64
_VOCABULARY = 30522


@dataclass(frozen=True)
class Subject:
    """A float model with fixed sizes. `feeds(count, judge)`: other inputs to judge with than to calibrate on."""

    name: str
    title: str
    make: Callable[[], onnx.ModelProto]
    feeds: Callable[[int, bool], list[Feed]]
    transformer: bool = False


def _fashion(name: str) -> Callable[[], onnx.ModelProto]:
    return lambda: suite.with_shapes(onnx.load(NETWORKS[name].path), {"image": (1, 1, 28, 28)})


def _clothes(count: int, judge: bool) -> list[Feed]:
    images, _ = load_images()
    return [{"image": image[None]} for image in images[500 * judge :][:count]]


def _photos(port: str) -> Callable[[int, bool], list[Feed]]:
    return lambda count, judge: [{port: feed["image"]} for feed in crops(count, judge)]


def _bert(layers: int, hidden: int, heads: int) -> Callable[[], onnx.ModelProto]:
    def make() -> onnx.ModelProto:
        model = make_bert(layers=layers, hidden=hidden, heads=heads, vocabulary=_VOCABULARY, sequence=_LENGTH)
        return suite.with_shapes(model, dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), (1, _LENGTH)))

    return make


def _texts(count: int, judge: bool) -> list[Feed]:
    """Sentences cut or padded to one length, as a tokenizer does; the mask leaves the padding out."""
    feeds = []
    for feed in sentences(count, judge):
        given = min(feed["input_ids"].shape[1], _LENGTH)
        padded = {name: np.zeros((1, _LENGTH), np.int64) for name in feed}
        for name, array in feed.items():
            padded[name][0, :given] = array[0, :given]
        feeds.append(padded)
    return feeds


SUBJECTS = {
    subject.name: subject
    for subject in (
        Subject("resnet50", "ResNet-50", lambda: suite.fixed("resnet50", 1), _photos("gpu_0/data_0")),
        Subject("squeezenet", "SqueezeNet", lambda: suite.fixed("squeezenet", 1), _photos("data_0")),
        Subject("mobilenet", "MobileNetV3-like CNN", _fashion("mobilenet"), _clothes),
        Subject("vit", "Vision transformer", _fashion("vit"), _clothes, transformer=True),
        Subject("bert-small", "BERT, 2 layers of 256", _bert(2, 256, 4), _texts, transformer=True),
        Subject("bert", "BERT, 12 layers of 768", _bert(12, 768, 12), _texts, transformer=True),
    )
}


@dataclass(frozen=True)
class Writer:
    """One way to quantize: `write(subject, float file, calibration feeds, file to write)`."""

    name: str
    write: Callable[[Subject, Path, Sequence[Feed], Path], None]


def writers(nncf_python: str | None) -> Iterator[Writer]:
    """The quantizer of ONNX Runtime in all its forms; NNCF only if there is an interpreter that has it."""
    for activations, weights in (("u8", "s8"), ("s8", "s8")):
        for per_channel in (False, True):
            which = "per channel" if per_channel else "per tensor"
            yield Writer(
                f"ONNX Runtime {activations}{weights}, {which}", _static("QDQ", activations, weights, per_channel)
            )
    yield Writer("ONNX Runtime QOperator u8s8", _static("QOperator", "u8", "s8", True))
    yield Writer("ONNX Runtime dynamic", _dynamic)
    if nncf_python:
        yield Writer("NNCF", _nncf(nncf_python))


class _Reader:
    """Feeds one by one, in the form that ONNX Runtime's calibration reads; `None` is the end."""

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> Feed | None:
        return next(self._feeds, None)


def _prepared(source: Path, folder: str) -> Path:
    from onnxruntime.quantization.shape_inference import quant_pre_process

    path = Path(folder) / "prepared.onnx"
    quant_pre_process(source, path, skip_symbolic_shape=True)
    return path


def _static(form: str, activations: str, weights: str, per_channel: bool) -> Callable[..., None]:
    def write(subject: Subject, source: Path, feeds: Sequence[Feed], out: Path) -> None:
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

        types = {"u8": QuantType.QUInt8, "s8": QuantType.QInt8}
        with tempfile.TemporaryDirectory() as folder:
            quantize_static(
                _prepared(source, folder),
                out,
                _Reader(feeds),
                quant_format=QuantFormat[form],
                per_channel=per_channel,
                activation_type=types[activations],
                weight_type=types[weights],
            )

    return write


def _dynamic(subject: Subject, source: Path, feeds: Sequence[Feed], out: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        quantize_dynamic(_prepared(source, folder), out, per_channel=True, weight_type=QuantType.QInt8)


def _nncf(python: str) -> Callable[..., None]:
    def write(subject: Subject, source: Path, feeds: Sequence[Feed], out: Path) -> None:
        preset = "mixed" if subject.transformer else "performance"
        run_nncf(python, source, feeds, out, preset, "fast", transformer=subject.transformer)

    return write


def run_nncf(
    python: str,
    model: Path,
    feeds: Sequence[Feed],
    out: Path,
    preset: str,
    correction: str,
    *,
    transformer: bool = False,
) -> None:
    """Quantize a file with NNCF in its own interpreter. Raises RuntimeError with NNCF's message if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        samples = Path(folder) / "samples.npz"
        np.savez(samples, **{name: np.stack([feed[name] for feed in feeds]) for name in feeds[0]})
        worker = Path(__file__).with_name("nncf_worker.py")
        kind = ["transformer"] if transformer else []
        command = [python, str(worker), str(model), str(samples), str(out), preset, correction, *kind]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError("NNCF: " + (done.stderr.strip().splitlines() or ["no message"])[-1])
