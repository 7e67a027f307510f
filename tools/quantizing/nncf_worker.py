"""Quantize one network with NNCF; run by an interpreter that has it, which needs nothing of graphopt.

python nncf_worker.py MODEL.onnx IMAGES.npy OUT.onnx {performance,mixed} {fast,full} [transformer]
"""

from __future__ import annotations

import sys

import nncf  # type: ignore[import-not-found]
import numpy as np
import onnx


def main() -> None:
    model, images, out, preset, correction, *kind = sys.argv[1:]
    samples = [{"image": image[None]} for image in np.load(images)]
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
