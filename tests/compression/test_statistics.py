"""Activation statistics against numpy: every kind, merged, divided among runs, saved and loaded."""

from __future__ import annotations

import gc
import math
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from graphopt.compression.accumulators import HISTOGRAM_BINS, KINDS, Channels, Histogram, Moments, Moving, Range
from graphopt.compression.picture import draw
from graphopt.compression.statistics import ActivationStatistics, collect
from graphopt.data.samples import Samples
from graphopt.errors import InputError
from graphopt.ir import Model
from graphopt.proof.oracle import Reference
from graphopt.rewriting.rewriter import Rewriter
from tests.helpers import model_of

RNG = np.random.default_rng(0)
TEXT = """g (float[N,3,8,8] X) => (float[N,5] Y) {
    c = Conv<pads=[1,1,1,1]>(X, w) r = Relu(c) p = GlobalAveragePool(r) f = Flatten(p) Y = Softmax(f) }"""


@pytest.fixture(scope="module")
def model() -> Model:
    return model_of(TEXT, {"w": RNG.normal(size=(5, 3, 3, 3)).astype(np.float32)})


FEEDS = [{"X": RNG.normal(scale=scale, size=(2, 3, 8, 8)).astype(np.float32)} for scale in (0.01, 1, 30, 0.5)]


def values(model: Model, name: str) -> np.ndarray:
    """All that a value holds over the samples, one after the other."""
    copy = model.copy()
    found = copy.graph.find(name)
    assert found is not None
    Rewriter(copy.graph).set_outputs([found])
    with Reference(copy) as reference:
        return np.concatenate([reference.run(feed)[name] for feed in FEEDS])


def test_every_kind_is_what_numpy_finds(model: Model) -> None:
    found = collect(model, Samples(FEEDS, model), kinds=list(KINDS))
    assert list(found.values) == ["X", "c", "r", "p", "f", "Y"]
    assert (found.samples, found.runs) == (4, 1)
    for name in ("c", "r", "f"):
        kinds, array = found.values[name], values(model, name)
        range_, moving, moments, histogram, channels = (kinds[kind] for kind in KINDS)
        assert isinstance(range_, Range)
        assert (range_.low, range_.high, range_.count) == (array.min(), array.max(), array.size)
        assert range_.zeros == np.count_nonzero(array == 0)
        assert isinstance(moving, Moving)
        parts = np.split(array, len(FEEDS))
        assert moving.low == pytest.approx(np.mean([part.min() for part in parts]), rel=1e-6)
        assert moving.high == pytest.approx(np.mean([part.max() for part in parts]), rel=1e-6)
        assert isinstance(moments, Moments)
        assert moments.mean == pytest.approx(array.mean(dtype=float), rel=1e-6)
        assert moments.deviation == pytest.approx(array.std(dtype=float), rel=1e-6)
        assert isinstance(histogram, Histogram)
        edges = np.linspace(-histogram.limit, histogram.limit, HISTOGRAM_BINS + 1)
        np.testing.assert_array_equal(histogram.counts, np.histogram(array.astype(float), edges)[0])
        near = pytest.approx(
            np.percentile(np.abs(array), 99, method="inverted_cdf"), abs=2 * histogram.limit / HISTOGRAM_BINS * 2
        )
        assert histogram.percentile(99) == near
        assert isinstance(channels, Channels)
        rest = tuple(axis for axis in range(array.ndim) if axis != 1)
        np.testing.assert_allclose(channels.low, array.min(rest))
        np.testing.assert_allclose(channels.high, array.max(rest))


def test_little_memory_takes_more_runs_and_finds_the_same(model: Model) -> None:
    samples = Samples(FEEDS, model)
    whole = collect(model, samples)
    parts = collect(model, samples, memory=4500)
    assert whole.runs == 1
    # The convolution and the ReLU are 2,560 bytes each, the input 1,536.
    assert parts.runs == 2
    assert {**whole.to_json(), "runs": 0} == {**parts.to_json(), "runs": 0}
    assert collect(model, samples, memory=1).runs == 6


def test_statistics_merge_as_if_collected_at_once(model: Model) -> None:
    kinds = list(KINDS)
    whole = collect(model, Samples(FEEDS, model), kinds=kinds)
    first, second = (collect(model, Samples(half, model), kinds=kinds) for half in (FEEDS[:1], FEEDS[1:]))
    first.merge(second)
    assert first.samples == 4
    for name, by_kind in whole.values.items():
        for kind in ("range", "histogram", "channels"):
            for key, item in by_kind[kind].state().items():
                np.testing.assert_allclose(first.values[name][kind].state()[key], item, rtol=1e-14)
        assert first.values[name]["moments"].deviation == pytest.approx(by_kind["moments"].deviation)  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="other values or kinds"):
        whole.merge(collect(model, Samples(FEEDS, model), ["r"]))


@pytest.mark.parametrize("suffix", [".npz", ".json"])
def test_what_is_saved_is_what_is_loaded(suffix: str, model: Model, tmp_path: Path) -> None:
    found = collect(model, Samples(FEEDS, model), kinds=list(KINDS))
    found.values["nothing"] = {kind: cls() for kind, cls in KINDS.items()}
    path = tmp_path / f"s{suffix}"
    found.save(path)
    loaded = ActivationStatistics.load(path)
    assert loaded.to_json() == found.to_json()
    nothing = loaded.values["nothing"]["range"]
    assert isinstance(nothing, Range)
    assert (nothing.low, nothing.high) == (math.inf, -math.inf)
    loaded.merge(found)
    path.write_bytes(b"{}")
    with pytest.raises(InputError, match="cannot be read as activation statistics"):
        ActivationStatistics.load(path)


def test_values_by_name_and_pattern(model: Model) -> None:
    samples = Samples(FEEDS, model)
    assert list(collect(model, samples, ["r", "X"]).values) == ["X", "r"]
    assert list(collect(model, samples, ["?"], ["range"]).values) == ["X", "c", "r", "p", "f", "Y"]
    with pytest.raises(InputError, match="computes no floating-point value 'q'"):
        collect(model, samples, ["r", "q"])
    with pytest.raises(InputError, match="no statistics of kind 'ranges'"):
        collect(model, samples, kinds=["ranges"])


def test_what_is_not_finite_is_counted_apart() -> None:
    array = np.array([1, np.nan, np.inf, -np.inf, -2], np.float16)
    for kind, cls in KINDS.items():
        accumulator = cls()
        accumulator.add(array.reshape(1, 5))
        accumulator.add(np.zeros((0, 5), np.float32))
        if isinstance(accumulator, Range):
            assert (accumulator.low, accumulator.high, accumulator.strange) == (-2, 1, 3)
        if isinstance(accumulator, Moments):
            assert (accumulator.mean, accumulator.count) == (-0.5, 2)
        if isinstance(accumulator, Histogram):
            assert accumulator.counts.sum() == 2, kind


def test_zeros_before_any_other_number_are_counted() -> None:
    histogram, other = Histogram(), Histogram()
    histogram.add(np.zeros(5))
    other.add(np.zeros(2))
    histogram.merge(other)
    histogram.add(np.array([0.1, -100.0]))
    assert histogram.counts.sum() == 9
    assert histogram.counts[HISTOGRAM_BINS // 2] == 8, "0.1 is less than a bin, an eighth"
    late = Histogram()
    late.add(np.array([1.0]))
    late.merge(other)
    assert late.counts.sum() == 3


def test_of_large_arrays_numbers_at_some_places_are_counted() -> None:
    """The range is that of all numbers; counts add up to about their number, and their shares are the same."""
    array = np.maximum(np.random.default_rng(0).normal(size=(1, 64, 112, 112)), 0).astype(np.float32)
    array[0, 5, 7, 9] = 8.5
    range_, histogram = Range(), Histogram()
    for accumulator in (range_, histogram):
        accumulator.add(array)
    assert (range_.low, range_.high, range_.count) == (0, 8.5, array.size)
    assert range_.zeros == np.count_nonzero(array == 0)
    assert histogram.counts.sum() == pytest.approx(array.size, rel=0.001)
    edges = np.linspace(-histogram.limit, histogram.limit, 17)
    counted = histogram.counts.reshape(16, -1).sum(1) / histogram.counts.sum()
    np.testing.assert_allclose(counted, np.histogram(array, edges)[0] / array.size, atol=0.01)


def test_a_picture_has_a_row_for_each_value(model: Model) -> None:
    picture = draw(collect(model, Samples(FEEDS, model)), "a <model>")
    root = ElementTree.fromstring(picture)
    texts = [element.text or "" for element in root.iter() if element.tag.endswith("text")]
    assert texts[0] == "a <model>: 4 samples, counts as logarithms"
    assert [text for text in texts if text in "XcrpfY"] == ["X", "c", "r", "p", "f", "Y"]
    assert sum(element.tag.endswith("rect") for element in root.iter()) > 100


def test_memory_grows_with_a_sample_not_with_their_number() -> None:
    """Peak memory in Python with many samples is that with few; all activations of a run are in it once."""
    model = model_of(
        "g (float[1,3,64,64] X) => (float[1,8,64,64] r) { c = Conv<pads=[1,1,1,1]>(X, w) r = Relu(c) }",
        {"w": np.random.default_rng(0).normal(size=(8, 3, 3, 3)).astype(np.float32)},
    )

    def peak(count: int) -> int:
        def feeds() -> Iterator[dict[str, np.ndarray]]:
            for seed in range(count):
                yield {"X": np.random.default_rng(seed).random((1, 3, 64, 64), np.float32)}

        samples = Samples(feeds, model)
        assert samples.count == count
        gc.collect()
        tracemalloc.start()
        collect(model, samples, kinds=("range", "histogram"))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak(2)  # what is imported and cached
    few, many = peak(4), peak(60)
    assert many < 1.2 * few + 100_000, (few, many)
    assert many < 40 * 8 * 64 * 64 * 4
