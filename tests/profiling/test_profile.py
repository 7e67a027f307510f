"""Profiles: the time of each kernel in a run, and the resulting numbers and picture."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from graphopt import runtime
from graphopt.driver import backend
from graphopt.driver.backend import Peak
from graphopt.errors import ArtifactError, InputError
from graphopt.hardware.target import Target
from graphopt.profiling.kernels import KERNELS, Kernel, read_kernels, write_kernels
from graphopt.profiling.picture import draw
from graphopt.profiling.profile import Call, Profile, assign, profile, trace
from graphopt.runtime.members import MANIFEST
from tests.compiled import compiled, copy, expected, inputs


def kernel(
    function: str, *layers: str, flops: int | None = 100, size: int | None = 10, operator: str = "Conv"
) -> Kernel:
    return Kernel(function, layers, (operator,) if layers else (), flops, size, "direct 6x2")


MADE = Profile(
    (Call(kernel("f", "a", "b"), 2e-6), Call(kernel("g", "b"), 1e-6), Call(kernel("h", flops=None, size=None), 1e-6)),
    latency=5e-6,
    runs=3,
    threads=2,
    peak=Peak(flops=1e8, bytes=2e7, products=4e8),
)


def test_each_kernel_of_a_run_is_timed_in_its_order() -> None:
    folder = compiled().folder
    session = runtime.load(folder, threads=1)
    found = profile(session, folder, inputs(), runs=3)
    assert [call.kernel for call in found.calls] == read_kernels(folder)
    assert {name for call in found.calls for name in call.kernel.layers} >= {
        name for entry in read_kernels(folder) for name in entry.layers
    }
    assert all(call.seconds >= 0 for call in found.calls)
    assert found.latency > 0
    assert (found.runs, found.threads, found.peak) == (3, 1, None)


def test_tracing_leaves_no_trace() -> None:
    """Results are the same meanwhile and afterwards, and nobody is called back any more."""
    session = runtime.load(compiled().folder, threads=1)
    before = session.run(inputs())
    assert trace(session, inputs())
    calls: list[str] = []
    session.instrument(lambda function, name, *rest: calls.append(name))
    during = session.run(inputs())
    session.instrument(None)
    seen = len(calls)
    after = session.run(inputs())
    assert seen > 0
    assert len(calls) == seen
    for name, array in expected(inputs()).items():
        np.testing.assert_allclose(before[name], array, atol=1e-5)
        np.testing.assert_array_equal(before[name], during[name])
        np.testing.assert_array_equal(before[name], after[name])


def test_a_run_that_fails_ends_the_tracing() -> None:
    session = runtime.load(compiled().folder, threads=1)
    with pytest.raises(InputError):
        trace(session, {"x": np.zeros((2, 3), np.float32)})
    assert trace(session, inputs())


def test_entries_of_a_branch_that_was_not_taken_are_passed_over() -> None:
    known = [kernel("f", "a"), kernel("g", "then"), kernel("h", "else"), kernel("f", "b")]
    assert [k.layers for k in assign(["f", "h", "f"], known)] == [("a",), ("else",), ("b",)]
    assert [k.layers for k in assign(["f", "unheard", "f"], known)] == [("a",), (), ("b",)]
    assert assign(["unheard"], known)[0].function == "unheard"


def test_shares_and_parts_of_the_peak() -> None:
    f, g, h = MADE.calls
    assert MADE.seconds == pytest.approx(4e-6)
    assert MADE.share(f) == pytest.approx(0.5)
    assert MADE.of_peak(f) == pytest.approx(100 / 2e-6 / 1e8)
    assert MADE.of_memory(g) == pytest.approx(10 / 1e-6 / 2e7)
    assert MADE.of_peak(h) is None
    assert MADE.of_memory(h) is None
    told = MADE.to_json()
    assert [entry["layers"] for entry in told["kernels"]] == [("a", "b"), ("b",), ()]
    assert told["peak"] == {"flops": 1e8, "bytes": 2e7, "products": 4e8}


def test_the_picture_has_a_bar_for_each_kernel_under_its_layer() -> None:
    root = ET.fromstring(draw(MADE, "<model> & co"))
    bars = root.findall("{*}g")
    assert [bar.find("{*}title").text for bar in bars] == ["f: a, b", "g: b", "h: -"]
    widths = [float(bar.find("{*}rect").get("width")) for bar in bars]
    assert widths[0] == pytest.approx(2 * widths[1], rel=0.01)
    texts = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[0].startswith("<model> & co")
    assert {"a", "b", "h"} <= set(texts)


def test_kernels_of_one_layer_stand_under_one_name() -> None:
    calls = tuple(Call(kernel(name, "conv", "relu"), 1e-6) for name in ("pack", "product"))
    texts = [text.text for text in ET.fromstring(draw(Profile(calls, 1.0, 1, 1), "")).iter() if text.text == "conv"]
    assert len(texts) == 1


def test_the_list_of_kernels_reads_back(tmp_path: Path) -> None:
    written = [kernel("f", "größe"), kernel("g", flops=None, size=None)]
    write_kernels(written, tmp_path)
    assert read_kernels(tmp_path) == written
    write_kernels([], tmp_path)
    assert read_kernels(tmp_path) == []


@pytest.mark.parametrize("text", ["", "[]", '{"kernels": [{}]}', '{"kernels": 3}'])
def test_a_damaged_list_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / KERNELS).write_text(text)
    with pytest.raises(ArtifactError, match="damaged"):
        read_kernels(tmp_path)


def test_an_artifact_without_a_list_is_an_error(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    session = runtime.load(folder)
    (folder / KERNELS).unlink()
    with pytest.raises(ArtifactError, match="is missing"):
        profile(session, folder, inputs())
    assert (folder / MANIFEST).is_file()


def test_other_devices_are_declined(tmp_path: Path) -> None:
    session: Any = SimpleNamespace(manifest=SimpleNamespace(device="cuda"))
    with pytest.raises(InputError, match="one by one"):
        profile(session, tmp_path, {})


def test_the_peak_is_measured() -> None:
    """No time is asserted: only that it is a number of a plausible machine, and that threads are taken."""
    found = backend.load().peak(Target.load("host"), 1)
    assert 1e8 < found.flops < 1e13
    assert 1e8 < found.bytes < 1e13
    assert 1e8 < found.products < 1e14


def test_products_of_bytes_are_held_against_their_own_peak() -> None:
    calls = [Call(kernel("f", "a", flops=50, operator=name), 1e-6) for name in ("Conv", "graphopt::BlockedConvInteger")]
    assert [MADE.of_peak(call) for call in calls] == [pytest.approx(0.5), pytest.approx(0.125)]
