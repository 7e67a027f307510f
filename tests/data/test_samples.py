"""Sample sets and validation sets: every source, the checks, and that only one sample is in memory."""

from __future__ import annotations

import logging
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphopt.data.images import Preprocess
from graphopt.data.samples import Samples, Validation, open_samples, open_validation
from graphopt.errors import InputError
from graphopt.ir import Model
from tests.helpers import model_of

RNG = np.random.default_rng(0)


def classifier() -> Model:
    return model_of("g (float[N,3,4,4] X) => (float[N,48] Y) { Y = Flatten(X) }")


def two() -> Model:
    text = """g (float[2,3] A, int64[2] B) => (float[2,3] Y)
        { c = Cast<to=1>(B) d = Unsqueeze(c, one) Y = Add(A, d) }"""
    return model_of(text, {"one": np.array([1])})


def pictures(count: int = 5) -> np.ndarray:
    return RNG.normal(size=(count, 3, 4, 4)).astype(np.float32)


def test_every_source_gives_the_same_samples(tmp_path: Path) -> None:
    model, arrays = classifier(), pictures()
    np.savez(tmp_path / "all.npz", X=arrays)
    np.savez_compressed(tmp_path / "packed.npz", X=arrays)
    np.savez(tmp_path / "columns.npz", X=np.asfortranarray(arrays))
    np.savez(tmp_path / "leading.npz", X=arrays[:, None])
    np.save(tmp_path / "all.npy", arrays)
    (tmp_path / "npz").mkdir()
    (tmp_path / "npy").mkdir()
    for index, array in enumerate(arrays):
        np.savez(tmp_path / "npz" / f"{index}.npz", X=array[None])
        np.save(tmp_path / "npy" / f"{index}.npy", array[None])
    feeds = [{"X": array[None]} for array in arrays]
    files = [tmp_path / name for name in ("packed.npz", "columns.npz", "leading.npz", "all.npy", "npz", "npy")]
    reference = Samples(tmp_path / "all.npz", model)
    for source in (*files, str(files[0]), feeds, [feed["X"] for feed in feeds], lambda: iter(feeds)):
        samples = Samples(source, model)
        for _ in range(2):
            np.testing.assert_array_equal(np.concatenate([feed["X"] for feed in samples]), arrays)
        assert samples.count == 5
        assert samples.digest == reference.digest
    assert Samples(feeds[:4], model).digest != reference.digest
    assert Samples({"X": arrays}, model).count == 1, "one feed with a batch of five"


def test_samples_of_several_inputs_with_a_batch_of_their_own(tmp_path: Path) -> None:
    a, b = RNG.normal(size=(8, 3)).astype(np.float32), np.arange(8)
    np.savez(tmp_path / "split.npz", A=a, B=b)
    np.savez(tmp_path / "leading.npz", A=a.reshape(4, 2, 3), B=b.reshape(4, 2))
    for name in ("split.npz", "leading.npz"):
        feeds = list(Samples(tmp_path / name, two()))
        assert [feed["B"].tolist() for feed in feeds] == [[0, 1], [2, 3], [4, 5], [6, 7]]
        np.testing.assert_array_equal(feeds[1]["A"], a[2:4])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"A": np.zeros((8, 3), np.float32), "B": np.zeros(6, np.int64)}, "differ in the number of samples"),
        ({"A": np.zeros((7, 3), np.float32), "B": np.zeros(8, np.int64)}, "7 rows, which is not a multiple of 2"),
        ({"A": np.zeros((8, 3), np.float32), "B": np.zeros((), np.int64)}, "has 0 dimensions; the input has 1"),
        ({"A": np.zeros((8, 3), np.float32), "C": np.zeros(8, np.int64)}, "no input 'C'"),
        ({"A": np.zeros((8, 3), np.float32)}, "input 'B' is missing"),
        ({"A": np.zeros((8, 3)), "B": np.zeros(8, np.int64)}, "dtype float64, but must have float32"),
        ({"A": np.zeros((8, 4), np.float32), "B": np.zeros(8, np.int64)}, "cannot have shape 2x4"),
        ({"A": np.full((8, 3), np.nan, np.float32), "B": np.zeros(8, np.int64)}, "'A' of sample 0 contains a NaN"),
        ({"A": np.zeros((0, 3), np.float32), "B": np.zeros(0, np.int64)}, "there are no samples"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", **arrays)
    with pytest.raises(InputError, match=message) as failure:
        open_samples(tmp_path / "s.npz", two())
    assert "s.npz" in failure.value.where


def test_the_sample_that_is_wrong_is_named() -> None:
    feeds = [{"X": array[None]} for array in pictures()]
    feeds[3] = {"X": feeds[3]["X"].astype(np.float64)}
    with pytest.raises(InputError, match=r"samples, sample 3: input 'X' has dtype float64"):
        open_samples(feeds, classifier())


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Path("nowhere.npz"), "no such file or folder"),
        (Path(__file__), "samples cannot be read from such a file"),
        (iter([1]), "only once, but are needed several times"),
        (3, "cannot be read from a int"),
    ],
)
def test_sources_that_are_none(source: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Samples(source, classifier())


def test_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "s.npz"
    np.savez(path, X=pictures(50))
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(InputError, match="cannot be read as an"):
        open_samples(path, classifier())


def test_channels_that_never_change_are_told(caplog: pytest.LogCaptureFixture) -> None:
    arrays = pictures()
    arrays[:, 1] = 0.5
    with caplog.at_level(logging.WARNING):
        open_samples([array[None] for array in arrays], classifier())
    assert "channels 1 of input 'X' are constant in all 5 samples" in caplog.text


def test_one_sample_is_in_memory_at_a_time(tmp_path: Path) -> None:
    model = model_of("g (float[1,100000] X) => (float[1,100000] Y) { Y = Relu(X) }")
    np.savez_compressed(tmp_path / "s.npz", X=np.ones((100, 100_000), np.float32))
    samples = Samples(tmp_path / "s.npz", model)
    tracemalloc.start()
    assert sum(float(feed["X"].sum()) for feed in samples) == 1e7
    assert samples.count == 100
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000, "the file is 40 MB unpacked"


def test_the_first_ones_within_a_limit() -> None:
    samples = Samples([array[None] for array in pictures()], classifier())
    assert len(samples.first(3)) == 3
    assert len(samples.first(3, limit=10)) == 1
    assert len(samples.first(9, limit=2 * 192)) == 2


def test_a_validation_set_has_answers(tmp_path: Path) -> None:
    model, arrays = classifier(), pictures()
    np.savez(tmp_path / "v.npz", X=arrays, labels=np.arange(5), Y=arrays.reshape(5, 48))
    validation = open_validation(tmp_path / "v.npz", model)
    cases = list(validation)
    assert [int(case.expected["labels"][0]) for case in cases if case.expected] == [0, 1, 2, 3, 4]
    assert cases[2].expected is not None
    np.testing.assert_array_equal(cases[2].expected["Y"], arrays[2].reshape(1, 48))
    assert validation.count == 5
    other = Validation([{"X": array[None], "labels": np.array([1])} for array in arrays], model)
    assert other.samples.digest == validation.samples.digest
    assert other.digest != validation.digest
    with pytest.raises(InputError, match=r"sample 0 has no expected results\s.*labels"):
        open_validation([{"X": arrays[:1]}], model)


def _write_pictures(folder: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    (folder / "a").mkdir(parents=True)
    for index in range(3):
        pixels = np.full((6, 8, 3), (10 * index, 20, 30), np.uint8)
        image.fromarray(pixels).save(folder / "a" / f"{index}.png")


def test_pictures_become_inputs_by_a_rule(tmp_path: Path) -> None:
    _write_pictures(tmp_path)
    feeds = list(Samples(tmp_path, classifier(), "scale=1,mean=[10,0,0],std=[1,2,1]"))
    assert [feed["X"].shape for feed in feeds] == [(1, 3, 4, 4)] * 3
    np.testing.assert_allclose(feeds[2]["X"][0, :, 0, 0], [10, 10, 30])
    bgr = next(iter(Samples(tmp_path, classifier(), "scale=1, colors=bgr")))
    np.testing.assert_allclose(bgr["X"][0, :, 0, 0], [30, 20, 0])
    last = model_of("g (uint8[1,H,W,3] X) => (uint8[1,H,W,3] Y) { Y = Identity(X) }")
    cut = next(iter(Samples(tmp_path, last, Preprocess(resize=4, size=(3, 5), scale=1.0))))
    assert cut["X"].shape == (1, 3, 5, 3)
    assert cut["X"].dtype == np.uint8


def test_classes_of_pictures(tmp_path: Path) -> None:
    _write_pictures(tmp_path)
    (tmp_path / "labels.txt").write_text("a/0.png 7\na/1.png,8\na/2.png 9\n")
    cases = list(Validation(tmp_path, classifier(), "scale=1"))
    assert [int(case.expected["labels"][0]) for case in cases if case.expected] == [7, 8, 9]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (None, "images need a preprocessing rule"),
        ("seize=3", "cannot read 'seize=3' in the preprocessing rule"),
        ("mean=[1,2]", "cannot read 'mean="),
        ("colors=gray", "has 3 channels, but gray images have 1"),
    ],
)
def test_wrong_rules_for_pictures(rule: str | None, message: str, tmp_path: Path) -> None:
    _write_pictures(tmp_path)
    with pytest.raises(InputError, match=message):
        Samples(tmp_path, classifier(), rule)


def test_open_sizes_need_a_size_in_the_rule(tmp_path: Path) -> None:
    _write_pictures(tmp_path)
    model = model_of("g (float[N,3,H,W] X) => (float[N,3,H,W] Y) { Y = Relu(X) }")
    with pytest.raises(InputError, match="leaves the size of images open"):
        Samples(tmp_path, model, "scale=1")
    assert next(iter(Samples(tmp_path, model, "imagenet")))["X"].shape == (1, 3, 224, 224)


def test_pictures_without_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write_pictures(tmp_path)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(InputError, match=r"needs the package Pillow"):
        Samples(tmp_path, classifier(), "scale=1")


def test_a_function_is_called_for_each_time_through() -> None:
    calls: list[int] = []

    def make() -> Iterator[np.ndarray]:
        calls.append(1)
        yield from (array[None] for array in pictures())

    samples = Samples(make, classifier())
    assert len(list(samples)) == len(list(samples)) == 5
    assert len(calls) == 2
