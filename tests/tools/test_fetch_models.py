"""Fetching pinned models, from a folder of wheels made here: nothing is downloaded."""

from __future__ import annotations

import hashlib
import io
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tools import fetch_models
from tools.efficientnet import MAGIC, read_state_dict
from tools.fetch_models import MODELS, FetchError, cached, fetch, main

NAME = "mnist-conv"
CONTENT = b"stands for a model"


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes wheels from, and no index; it holds one wheel for NAME."""
    folder = tmp_path / "registry"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with zipfile.ZipFile(folder / "qonnx-1.0.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(MODELS[NAME].member, CONTENT)
        wheel.writestr("qonnx-1.0.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: qonnx\nVersion: 1.0.0\n")
        wheel.writestr("qonnx-1.0.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
    return folder


def pin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    pinned = replace(MODELS[NAME], sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(fetch_models.MODELS, NAME, pinned)


def test_a_model_is_fetched_once_and_then_taken_from_the_cache(
    registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pin(monkeypatch, CONTENT)
    cache = tmp_path / "cache"
    assert cached(NAME, cache) is None
    path = fetch(NAME, cache)
    assert path.read_bytes() == CONTENT
    assert [p.name for p in cache.iterdir()] == [f"{NAME}.onnx"]
    for wheel in registry.iterdir():
        wheel.unlink()
    assert fetch(NAME, cache) == cached(NAME, cache) == path


def test_a_damaged_file_in_the_cache_is_fetched_again(
    registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pin(monkeypatch, CONTENT)
    path = fetch(NAME, tmp_path)
    path.write_bytes(CONTENT[:-1])
    assert cached(NAME, tmp_path) is None
    assert fetch(NAME, tmp_path).read_bytes() == CONTENT


def test_other_content_than_pinned_is_refused(registry: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with pytest.raises(FetchError, match=f"not the pinned {MODELS[NAME].sha256}"):
        fetch(NAME, cache)
    assert not list(cache.iterdir())


def test_a_package_without_the_file_is_refused(registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fetch_models.MODELS, NAME, replace(MODELS[NAME], member="qonnx/gone.onnx"))
    with pytest.raises(FetchError, match=r"does not contain qonnx/gone\.onnx"):
        fetch(NAME, tmp_path)


def test_a_registry_that_lacks_the_package_means_status_2(
    registry: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["magika", "--cache", str(tmp_path / "cache")]) == 2
    message = capsys.readouterr().err
    assert message.startswith("magika: magika==1.0.3: pip could not download it")
    assert "reachable" in message


def test_an_unknown_name_means_status_2_and_lists_the_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["resnet-900"]) == 2
    message = capsys.readouterr().err
    assert all(name in message for name in MODELS)


def test_the_cache_folder_can_be_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHOPT_MODELS", str(tmp_path))
    assert fetch_models.cache_folder() == tmp_path


def test_the_list_needs_no_network(registry: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list", "--cache", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(MODELS)
    assert all(line.endswith("not fetched") for line in lines)


def test_every_pin_is_complete() -> None:
    for source in MODELS.values():
        assert "==" in source.package
        assert len(bytes.fromhex(source.sha256)) == 32
        assert source.licence in ("Apache-2.0", "MIT")


class Stored:
    """A tensor as PyTorch's older form pickles it: a view of a storage that is named, not contained."""

    def __init__(self, data: np.ndarray, shape: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> None:
        self.data, self.view = data, (offset, shape, stride)

    def __reduce__(self) -> tuple[Any, ...]:
        rebuild = sys.modules["torch._utils"]._rebuild_tensor_v2
        return rebuild, (Key(self.data), *self.view, False, OrderedDict())


class Key:
    def __init__(self, data: np.ndarray) -> None:
        self.data = data


@pytest.fixture
def torch_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules by the names that the pickles hold; nothing else of torch is needed to write one."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    def _rebuild_tensor_v2() -> None:
        raise AssertionError("only its name is used")

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    for name in ("FloatStorage", "LongStorage"):
        setattr(torch, name, type(name, (), {"__module__": "torch"}))
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)


def write_state_dict(path: Path, state: dict[str, Stored]) -> None:
    storages: dict[str, np.ndarray] = {}

    class Pickler(pickle.Pickler):
        def persistent_id(self, item: Any) -> Any:
            if not isinstance(item, Key):
                return None
            storages[str(id(item.data))] = item.data
            kind = "FloatStorage" if item.data.dtype == np.float32 else "LongStorage"
            return "storage", getattr(sys.modules["torch"], kind), str(id(item.data)), "cpu", item.data.size, None

    body = io.BytesIO()
    Pickler(body, protocol=2).dump(OrderedDict(state))
    parts = [pickle.dumps(part, 2) for part in (MAGIC, 1001, {"little_endian": True})]
    parts += [body.getvalue(), pickle.dumps(list(storages), 2)]
    parts += [data.size.to_bytes(8, "little") + data.tobytes() for data in storages.values()]
    path.write_bytes(b"".join(parts))


@pytest.mark.usefixtures("torch_names")
def test_a_state_dict_is_read_with_shared_storages_and_strides(tmp_path: Path) -> None:
    data = np.arange(6, dtype=np.float32)
    state = {
        "rows": Stored(data, (2, 3), (3, 1)),
        "columns": Stored(data, (3, 2), (1, 3)),
        "tail": Stored(data, (2,), (1,), offset=4),
        "count": Stored(np.array([7], np.int64), (), ()),
    }
    write_state_dict(tmp_path / "state.pth", state)
    arrays = read_state_dict(tmp_path / "state.pth")
    assert arrays["rows"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert arrays["columns"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert arrays["tail"].tolist() == [4, 5]
    assert arrays["count"].dtype == np.int64
    assert arrays["count"].tolist() == 7


@pytest.mark.usefixtures("torch_names")
@pytest.mark.parametrize("view", [((2, 4), (3, 1), 0), ((2,), (1,), 5), ((2,), (-1,), 3), ((1,), (1,), -1)])
def test_a_tensor_outside_its_storage_is_refused(
    tmp_path: Path, view: tuple[tuple[int, ...], tuple[int, ...], int]
) -> None:
    write_state_dict(tmp_path / "state.pth", {"x": Stored(np.arange(6, dtype=np.float32), *view)})
    with pytest.raises(ValueError, match="outside its storage"):
        read_state_dict(tmp_path / "state.pth")


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.pth"
    header = b"".join(pickle.dumps(part, 2) for part in (MAGIC, 1001, {}))
    path.write_bytes(header + pickle.dumps(sys.exit, 2))
    with pytest.raises(pickle.UnpicklingError, match=r"contains no sys\.exit"):
        read_state_dict(path)


def test_another_file_is_no_state_dict(tmp_path: Path) -> None:
    (tmp_path / "other.pth").write_bytes(pickle.dumps(1, 2))
    with pytest.raises(ValueError, match="not a PyTorch state dict"):
        read_state_dict(tmp_path / "other.pth")


@pytest.mark.skipif(cached("efficientnet-lite0") is None, reason="efficientnet-lite0 has not been fetched")
def test_efficientnet_is_unfused_and_takes_any_batch() -> None:
    import onnx

    from graphopt.proof.oracle import run_reference

    path = fetch("efficientnet-lite0")
    found = [node.op_type for node in onnx.load(path).graph.node]
    assert found.count("Conv") == found.count("BatchNormalization") == 49
    image = np.zeros((2, 3, 224, 224), np.float32)
    image[1, :, 80:150, 80:150] = 1
    logits = run_reference(path, {"image": image})["logits"]
    assert logits.shape == (2, 1000)
    assert np.abs(logits).max() < 50
    assert logits[0].argmax() != logits[1].argmax()
