"""A trained network whose answers others learn beside the labels (Hinton et al., 2015), run by ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch.nn import functional as F

from tools.training.dataset import as_input

DEMO = Path(__file__).resolve().parent.parent.parent / "graphopt" / "demo" / "fashion.onnx"
_BATCH = 500
_TEMPERATURE = 2.0
_SHARE = 0.7
"""The part of the loss that is the difference from the teacher; the rest is that from the labels."""


class Teacher:
    """The logits of a network for images and their mirror images, averaged: a mirrored image shows the same thing."""

    def __init__(self, images: np.ndarray, path: Path = DEMO, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        parts = []
        for start in range(0, len(images), _BATCH):
            batch = as_input(images[start : start + _BATCH])
            plain, mirrored = (session.run(["logits"], {"image": x})[0] for x in (batch, batch[..., ::-1].copy()))
            parts.append((plain + mirrored) / 2)
        self.logits = torch.from_numpy(np.concatenate(parts))

    def loss(self, logits: torch.Tensor, labels: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """The loss of a student's logits for the chosen images."""
        wanted = F.softmax(self.logits[chosen] / _TEMPERATURE, 1)
        apart = F.kl_div(F.log_softmax(logits / _TEMPERATURE, 1), wanted, reduction="batchmean")
        return _SHARE * _TEMPERATURE**2 * apart + (1 - _SHARE) * F.cross_entropy(logits, labels)
