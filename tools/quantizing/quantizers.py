"""What quantizes: graphopt's pipelines, a naive control, and the peers in the settings that suit them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import graphopt
from tools.quantizing.foreign import run_nncf
from tools.quantizing.networks import Network

Quantize = Callable[[Network, np.ndarray, Path], None]
"""Quantizes a network with the given images and writes the result to a path."""


@dataclass(frozen=True)
class Quantizer:
    """One setting of one tool. `kind`: rows of the same kind compete, and the best stands for the tool."""

    kind: str
    settings: str
    run: Quantize = field(repr=False)


OURS = "graphopt int8"
NAIVE = "per-tensor min-max"
ORT = "ONNX Runtime int8"
NNCF = "NNCF int8"
WEIGHTS = "graphopt int4 weights"
_NAIVE = "default,quantize-static{calibration=min-max weights=min-max per_channel=false},eliminate-dead"
_PRODUCTS = ["Conv", "Gemm", "MatMul"]


def quantizers(nncf_python: str | None) -> Iterator[Quantizer]:
    """All settings of all tools; those of NNCF only if there is an interpreter that has it."""
    for pipeline in ("quantize,compact", "quantize,mend,compact", "quantize-smooth,compact"):
        yield Quantizer(OURS, pipeline, _graphopt(pipeline))
    for pipeline in ("quantize-int4,compact", "quantize-int4,mend,compact"):
        yield Quantizer(WEIGHTS, pipeline, _graphopt(pipeline))
    yield Quantizer(NAIVE, _NAIVE, _graphopt(_NAIVE))
    for method in ("MinMax", "Entropy", "Percentile"):
        for types in (None, _PRODUCTS):
            where = "products only" if types else "all operators"
            yield Quantizer(ORT, f"per channel, {method}, {where}", _onnxruntime(method, types))
    if nncf_python:
        for preset in ("performance", "mixed"):
            for correction in ("fast", "full"):
                run = _nncf(nncf_python, preset, correction)
                yield Quantizer(NNCF, f"{preset} preset, {correction} bias correction", run)


def _graphopt(passes: str) -> Quantize:
    def run(network: Network, images: np.ndarray, out: Path) -> None:
        samples = [{"image": image[None]} for image in images]
        model, _ = graphopt.optimize(network.path, passes, samples=samples)
        graphopt.save(model, out)

    return run


class _Reader:
    """The images one by one, in the form that ONNX Runtime's calibration reads; `None` is the end."""

    def __init__(self, images: np.ndarray) -> None:
        self._images = iter(images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self._images, None)
        return None if image is None else {"image": image[None]}


def _onnxruntime(method: str, types: list[str] | None) -> Quantize:
    def run(network: Network, images: np.ndarray, out: Path) -> None:
        from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        with tempfile.TemporaryDirectory() as folder:
            prepared = Path(folder) / "prepared.onnx"
            quant_pre_process(network.path, prepared, skip_symbolic_shape=True)
            quantize_static(
                prepared,
                out,
                _Reader(images),
                op_types_to_quantize=types,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod[method],
            )

    return run


def _nncf(python: str, preset: str, correction: str) -> Quantize:
    def run(network: Network, images: np.ndarray, out: Path) -> None:
        feeds = [{"image": image[None]} for image in images]
        run_nncf(python, network.path, feeds, out, preset, correction, transformer=network.transformer)

    return run
