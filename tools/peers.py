"""The runtimes that are compared. Each gets the same fixed-shape ONNX file, in float32, and the same number of threads.

A peer is used as its makers recommend for latency: all of ONNX Runtime's optimizations, OpenVINO's latency mode, and no
copies of inputs or outputs if its interface allows it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from graphopt import runtime
from graphopt.profiling.bench import Runner

OURS = "graphopt"
PEERS = ("onnxruntime", "openvino")
RUNNERS = (OURS, *PEERS)
LABELS = {OURS: "graphopt", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}

Feed = Mapping[str, np.ndarray]


def available() -> tuple[str, ...]:
    """Return those of RUNNERS that are installed."""
    return tuple(name for name in RUNNERS if name == OURS or importlib.util.find_spec(name))


def make(name: str, model: Path, artifact: Path, feed: Feed, threads: int) -> Runner:
    """Return a function that runs the model once on `feed` and returns its outputs. Raises what the peer raises."""
    if name == OURS:
        session = runtime.load(artifact, threads=threads)
        return lambda: session.run(feed)
    return _onnxruntime(model, feed, threads) if name == "onnxruntime" else _openvino(model, feed, threads)


def _onnxruntime(model: Path, feed: Feed, threads: int) -> Runner:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    given = dict(feed)
    return lambda: dict(zip(names, session.run(names, given), strict=True))


def _openvino(model: Path, feed: Feed, threads: int) -> Runner:
    import openvino  # type: ignore[import-untyped]

    core = openvino.Core()
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        # With compressed weights, it would otherwise quantize activations too.
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = core.compile_model(core.read_model(model), "CPU", settings)
    request = compiled.create_infer_request()
    names = _output_names(model)
    given = dict(feed)

    def run() -> dict[str, Any]:
        results = request.infer(given, share_inputs=True, share_outputs=True)
        return dict(zip(names, results.values(), strict=True))

    return run


def _output_names(model: Path) -> list[str]:
    """Return the outputs' names in ONNX; OpenVINO keeps their order but may rename them."""
    import onnx

    return [output.name for output in onnx.load(model, load_external_data=False).graph.output]
