"""Reading and writing model files, and the bridge to onnx-graphsurgeon."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import onnx
from google.protobuf.message import DecodeError

from graphopt.errors import ModelError, ModelWarning
from graphopt.ir import Model, Tensor, edit
from graphopt.ir.declared import correct_declared_types
from graphopt.ir.read_proto import read_model
from graphopt.ir.tensor import HeldFile, map_file
from graphopt.ir.tensor_proto import decode_raw, raw_data, write_tensor
from graphopt.ir.write_proto import write_model, write_value
from graphopt.util.files import replacing

from .acceptance import checker_complaint, runtime_loads
from .weightless import lacks_nested
from .wire import MAPPED_BYTES, length_delimited, without_weights

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

_INLINE_LIMIT = 1 << 30
"""The largest size of weights in bytes for which a model is saved as one file; protobuf's limit is 2 GiB."""
_EXTERNAL_ABOVE = 1024
"""The smallest size in bytes of a tensor that goes into the external data file, if there is one."""
_ALIGNMENT = 4096
"""The alignment of external tensors, so that they can be memory-mapped (onnx/docs/ExternalData.md)."""


def load(source: str | os.PathLike[str] | bytes | onnx.ModelProto | Model) -> Model:
    """Read a model and check it.

    Large weights stay in the file, or in external files, and are memory-mapped when needed: as long as the model is
    used, these files must not be overwritten in place (`save` replaces them by a new file instead). Models that ONNX
    Runtime loads are accepted, with a ModelWarning (a category of Python's `warnings`) for everything that violates the
    specification.

    Arguments:
        source: a path, the bytes of a model, an onnx.ModelProto, or a Model, which is copied.

    Raises ModelError if there is no such file, if it is not ONNX, if both onnx.checker and ONNX Runtime reject it, or
    if its external data is missing, too short or outside the model's folder.
    """
    if isinstance(source, Model):
        return source.copy()
    if isinstance(source, onnx.ModelProto):
        return _read(source, None, source.graph.name or "model")
    if isinstance(source, bytes):
        return _read(_decode(source, "model bytes"), None, "model bytes")
    path = Path(source)
    data, places = _light(_read_file(path), path)
    model = _read(_decode(data, str(path)), path.parent, str(path))
    _hold(model, path, places)
    edit.describe(model, path=path)
    return model


def _read_file(path: Path) -> memoryview:
    """Map the file into memory: parsing copies what it needs, and a second copy of all weights would be a waste."""
    if path.is_dir():
        raise ModelError("this is a folder, not a model", where=str(path), remedy="name the .onnx file")
    try:
        return map_file(path, 0, path.stat().st_size).data
    except FileNotFoundError:
        raise ModelError("there is no such file", where=str(path), remedy="check the path") from None
    except OSError as error:
        raise ModelError(f"it cannot be read: {error.strerror}", where=str(path)) from None


def _light(data: memoryview, path: Path) -> tuple[bytes | memoryview, dict[str, tuple[int, int]]]:
    """Return the serialized model without its large weights, and where in the file those are.

    Parsing would copy them twice. If the path is a link into another folder, everything is parsed, because external
    data must be in the model's folder.
    """
    if len(data) < MAPPED_BYTES or path.resolve().parent != path.parent.resolve():
        return data, {}
    return without_weights(data, path.resolve().name) or (data, {})


def _hold(model: Model, path: Path, places: Mapping[str, tuple[int, int]]) -> None:
    """Make the large weights refer to the file as it is now, even after another one has replaced it."""
    if not places:
        return
    file = HeldFile(path)
    for name, (offset, length) in places.items():
        value = model.graph.initializers[name]
        assert value.tensor is not None
        edit.set_tensor(value, _held(file, offset, length, value.tensor))


def _held(file: HeldFile, offset: int, length: int, tensor: Tensor) -> Tensor:
    dtype, shape = tensor.dtype, tensor.shape
    return Tensor(dtype, shape, lambda: decode_raw(file.map(offset, length), dtype, shape), file.path)


def _decode(data: bytes | memoryview, where: str) -> onnx.ModelProto:
    remedy = "check that this is an .onnx file, and that it was copied or downloaded completely"
    try:
        proto = onnx.ModelProto.FromString(data)
    except DecodeError:
        raise ModelError("it is not an ONNX model, or it is truncated", where=where, remedy=remedy) from None
    if not proto.HasField("graph") or not proto.ir_version:
        raise ModelError("it is not an ONNX model: there is no graph in it", where=where, remedy=remedy)
    return proto


def _read(proto: onnx.ModelProto, folder: Path | None, where: str) -> Model:
    notes: list[str] = []
    model = read_model(proto, folder, where, notes.append)
    notes += correct_declared_types(model)
    light = _proto_without_weights(model)
    complaint, place = ("", "") if lacks_nested(proto) else checker_complaint(light)
    if complaint and not runtime_loads(light):
        raise ModelError(
            f"onnx.checker finds it invalid: {complaint}",
            where=" ".join(filter(None, [where, place])),
            remedy="ONNX Runtime does not load it either: export the model again, or repair it with onnx.helper",
        )
    if complaint:
        notes.append(f"onnx.checker finds it invalid, but ONNX Runtime loads it: {complaint}")
    for note in notes:
        warnings.warn(f"{where}: {note}", ModelWarning, stacklevel=3)
    return model


def _proto_without_weights(model: Model) -> onnx.ModelProto:
    """Return the model with the large initializers of the main graph as inputs: the checker needs no weights.

    Tensors were checked when they were read.
    """
    proto = write_model(model, _type_only)
    graph = proto.graph
    large = [t.name for t in graph.initializer if not _has_data(t)]
    kept = [t for t in graph.initializer if _has_data(t)]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    inputs = {info.name for info in graph.input}
    for name in large:
        if name not in inputs:
            write_value(model.graph.initializers[name], graph.input.add())
    return proto


def _type_only(tensor: Tensor, name: str) -> onnx.TensorProto:
    if tensor.nbytes <= _EXTERNAL_ABOVE or not tensor.dtype.bits:
        return write_tensor(tensor, name)
    return onnx.TensorProto(name=name, data_type=int(tensor.dtype), dims=tensor.shape)


def _has_data(proto: onnx.TensorProto) -> bool:
    return proto.HasField("raw_data") or bool(proto.string_data)


def to_proto(model: Model) -> onnx.ModelProto:
    """Return the model as a proto that contains all weights."""
    return write_model(model)


def save(model: Model, path: str | os.PathLike[str], *, external_data: bool | None = None) -> None:
    """Write a model to a file; after an error, no partial file remains.

    With `external_data`, the weights go into a file of the same name with `.data` appended; None decides by their size.
    Raises ModelError if the file cannot be written.
    """
    path = Path(path)
    if external_data is None:
        external_data = weight_bytes(model) > _INLINE_LIMIT
    try:
        if not external_data:
            with replacing(path) as file:
                _write_inline(model, file)
            return
        data_path = path.with_name(path.name + ".data")
        with replacing(path) as file, replacing(data_path) as data:
            writer = _ExternalWriter(data, data_path.name)
            file.write(write_model(model, writer.write).SerializeToString(deterministic=True))
    except OSError as error:
        raise ModelError(
            f"it cannot be written: {error.strerror or error}",
            where=str(path),
            remedy="check that the folder exists, is writable and has room",
        ) from None


def _write_inline(model: Model, file: BinaryIO) -> None:
    """Write a model with all weights in it, as `write_model` would serialize it, without copying the weights.

    The large initializers of the main graph are left out of the message and appended by hand: in a serialized message
    (protobuf.dev/programming-guides/encoding), fields may be in any order.
    """
    proto = write_model(model, _type_only)
    large = [t for t in proto.graph.initializer if not _has_data(t) and math.prod(t.dims)]
    kept = [t for t in proto.graph.initializer if _has_data(t) or not math.prod(t.dims)]
    heads = [(t.SerializeToString(deterministic=True), raw_data(_tensor_of(model, t.name))) for t in large]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    graph = proto.graph.SerializeToString(deterministic=True)
    proto.ClearField("graph")
    entries = []
    for head, data in heads:
        raw_field = length_delimited(onnx.TensorProto.RAW_DATA_FIELD_NUMBER, len(data))
        entry = length_delimited(onnx.GraphProto.INITIALIZER_FIELD_NUMBER, len(head) + len(raw_field) + len(data))
        entries.append((entry + head + raw_field, data))
    length = len(graph) + sum(len(head) + len(data) for head, data in entries)
    file.write(proto.SerializeToString(deterministic=True))
    file.write(length_delimited(onnx.ModelProto.GRAPH_FIELD_NUMBER, length) + graph)
    for head, data in entries:
        file.write(head)
        file.write(data)


def _tensor_of(model: Model, name: str) -> Tensor:
    tensor = model.graph.initializers[name].tensor
    assert tensor is not None
    return tensor


def weight_bytes(model: Model) -> int:
    """Return the bytes that the initializers of a model, including nested graphs, take in a file."""
    values = (v for graph in model.graph.all_graphs() for v in graph.initializers.values())
    return sum(value.tensor.nbytes for value in values if value.tensor is not None)


class _ExternalWriter:
    """Writes large tensors into one external data file, each at an aligned offset."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.file = file
        self.name = name

    def write(self, tensor: Tensor, name: str) -> onnx.TensorProto:
        if tensor.nbytes <= _EXTERNAL_ABOVE or not tensor.dtype.bits:
            return write_tensor(tensor, name)
        data = raw_data(tensor)
        self.file.write(bytes(-self.file.tell() % _ALIGNMENT))
        proto = onnx.TensorProto(name=name, data_type=int(tensor.dtype), dims=tensor.shape)
        proto.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", self.name), ("offset", self.file.tell()), ("length", len(data))):
            proto.external_data.add(key=key, value=str(value))
        self.file.write(data)
        return proto


def to_surgeon(model: Model) -> gs.Graph:
    """Return the model as an onnx-graphsurgeon graph, for scripts that use its format."""
    import onnx_graphsurgeon as gs

    return gs.import_onnx(to_proto(model))


def from_surgeon(graph: gs.Graph) -> Model:
    """Return the model of an onnx-graphsurgeon graph. Raises ModelError if the result is not a valid model."""
    import onnx_graphsurgeon as gs

    proto = gs.export_onnx(graph)
    return _read(proto, None, graph.name or "graphsurgeon graph")
