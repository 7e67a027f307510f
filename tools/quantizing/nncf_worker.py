"""Quantize one network with NNCF; run by an interpreter that has it, which needs nothing of graphopt.

python nncf_worker.py MODEL.onnx SAMPLES.npz OUT.onnx {performance,mixed} {fast,full} [transformer]

SAMPLES.npz has an array for each input of the model, whose first axis counts the samples.
"""

from __future__ import annotations

import sys

import nncf  # type: ignore[import-not-found]
import numpy as np
import onnx


def main() -> None:
    model, path, out, preset, correction, *kind = sys.argv[1:]
    with np.load(path) as file:
        arrays = dict(file)
    samples = [dict(zip(arrays, rows)) for rows in zip(*arrays.values())]
    quantized = nncf.quantize(
        onnx.load(model),
        nncf.Dataset(samples),
        preset=nncf.QuantizationPreset(preset),
        subset_size=len(samples),
        fast_bias_correction=correction == "fast",
        model_type=nncf.ModelType.TRANSFORMER if kind else None,
    )
    onnx.save(quantized, out)


if __name__ == "__main__":
    main()
