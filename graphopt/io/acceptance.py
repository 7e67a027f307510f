"""Acceptance of models that onnx.checker rejects: whatever ONNX Runtime loads is accepted."""

from __future__ import annotations

import onnx


def checker_complaint(proto: onnx.ModelProto) -> tuple[str, str]:
    """Return what onnx.checker finds wrong with a model, and where in it; empty texts if nothing."""
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        places = [line.removeprefix("==>").strip() for line in lines if line.startswith("==> Context")]
        return lines[0] if lines else str(error), " ".join(places)
    return "", ""


def runtime_loads(proto: onnx.ModelProto) -> bool:
    """Return whether ONNX Runtime loads a model, which must contain its weights or have them as inputs."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # onnxruntime raises a dozen unrelated classes
        return False
    return True
