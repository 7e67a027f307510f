"""Arrays come back from .npz files as they went in."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from graphopt.data.npz import read_npz, write_npz


def test_round_trip_with_types_that_numpy_lacks(tmp_path: Path) -> None:
    arrays = {
        "a": np.arange(6, dtype=np.int64).reshape(2, 3),
        "b": np.array([1.5, -2], ml_dtypes.bfloat16),
        "empty": np.zeros((0, 3), np.float32),
    }
    write_npz(tmp_path / "x.npz", arrays)
    back = read_npz(tmp_path / "x.npz", {"b": np.dtype(ml_dtypes.bfloat16)})
    assert set(back) == set(arrays)
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype
        np.testing.assert_array_equal(back[name], array)


def test_nothing_is_left_when_writing_fails(tmp_path: Path) -> None:
    class Unwritable:
        def __array__(self, *args: object, **kwargs: object) -> np.ndarray:
            raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        write_npz(tmp_path / "x.npz", {"a": np.zeros(3), "b": Unwritable()})  # type: ignore[dict-item]
    assert not list(tmp_path.iterdir())
