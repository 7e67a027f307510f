"""The network and the images that ship for `graphopt demo`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

from graphopt.cli.demo import FOLDER, IMAGES, MODEL, load_images
from graphopt.proof.oracle import run_reference

FULL_TEST_SET = Path("/usr/share/datasets/fashion-mnist/t10k-images-idx3-ubyte.gz")


def test_the_network_is_small_and_valid() -> None:
    assert MODEL.stat().st_size < 1_000_000
    onnx.checker.check_model(str(MODEL), full_check=True)


def test_the_network_leaves_something_to_fuse() -> None:
    model = onnx.load(MODEL)
    found = Counter(node.op_type for node in model.graph.node)
    assert found["Conv"] == found["BatchNormalization"] == 9
    assert found["Add"] == 3
    assert {"Shape", "Gather", "Concat", "Reshape"} <= set(found)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param


def test_the_images_are_a_thousand_of_all_classes() -> None:
    images, labels = load_images()
    assert images.shape == (1000, 1, 28, 28)
    assert images.dtype == np.float32
    assert images.min() == 0
    assert images.max() == 1
    assert labels.dtype == np.int64
    assert sorted(set(labels.tolist())) == list(range(10))


def test_the_network_is_right_on_the_images() -> None:
    images, labels = load_images()
    logits = run_reference(MODEL, {"image": images})["logits"]
    assert logits.shape == (1000, 10)
    assert (logits.argmax(1) == labels).mean() >= 0.91


def test_the_licence_of_the_images_ships_with_them() -> None:
    assert "Zalando" in (FOLDER / "LICENSE.fashion-mnist").read_text()


@pytest.mark.skipif(not FULL_TEST_SET.exists(), reason="the package dataset-fashion-mnist is not installed")
def test_the_images_are_the_first_of_the_test_set() -> None:
    import gzip

    with gzip.open(FULL_TEST_SET) as file:
        pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with np.load(IMAGES) as ours:
        assert np.array_equal(ours["images"], pixels[:1000])
