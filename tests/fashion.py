"""The trained networks for Fashion-MNIST that ship with the tests and with the demo, and images with labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from graphopt.cli.demo import MODEL as DEMO
from graphopt.cli.demo import load_images

FOLDER = Path(__file__).resolve().parent / "networks"
MOBILENET = FOLDER / "mobilenet.onnx"
VIT = FOLDER / "vit.onnx"
NETWORKS = {"demo": DEMO, "mobilenet": MOBILENET, "vit": VIT}
"""`image` float32 N x 1 x 28 x 28 between 0 and 1 to `logits` N x 10. See tools/train_networks.py."""


def labelled(count: int, start: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return (images float32 count x 1 x 28 x 28, classes int64) of the thousand test images of the demo."""
    images, labels = load_images()
    return images[start : start + count], labels[start : start + count]


def samples(count: int) -> list[dict[str, np.ndarray]]:
    """Return feeds of one image each, the last of the thousand, for calibration."""
    images, _ = labelled(count, 1000 - count)
    return [{"image": image[None]} for image in images]
