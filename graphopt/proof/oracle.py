"""ONNX Runtime as the oracle that defines what the author's model computes.

All of ONNX Runtime's own optimizations are off unless requested, so that its rewrites cannot hide or mimic those of
graphopt.
"""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import onnx

from graphopt.errors import GraphOptError, InputError
from graphopt.ir import DType, Model, Tensor, TensorType
from graphopt.ir.tensor_proto import write_tensor
from graphopt.ir.write_proto import write_model

from .tolerance import Output

_EXTERNAL_ABOVE = 1 << 30
"""The size in bytes above which a ModelProto is passed in a file with external data; protobuf's limit is 2 GiB."""
_LEND_ABOVE = 1024
"""The size in bytes above which the weights of a Model are shared with ONNX Runtime instead of serialized."""


class OracleError(GraphOptError):
    """ONNX Runtime cannot load the model, or cannot run it on these inputs, so nothing can be compared."""

    exit_status = 1


@dataclass(frozen=True)
class Port:
    """An input or output as ONNX Runtime sees it. `dtype` is None for sequences, optionals and maps."""

    name: str
    kind: str
    dtype: DType | None
    shape: tuple[int | str | None, ...]


class Reference:
    """A model loaded into ONNX Runtime.

    `model` is a Model, an onnx.ModelProto, the bytes of one, or a path. `optimize` turns ONNX Runtime's own
    optimizations on (for speed comparisons), `threads` is the number of threads within an operator. Raises OracleError
    if ONNX Runtime cannot load it.
    """

    def __init__(
        self, model: Model | onnx.ModelProto | bytes | str | Path, *, optimize: bool = False, threads: int = 1
    ) -> None:
        import onnxruntime as ort

        self.name = _name(model)
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        options = ort.SessionOptions()
        level = ort.GraphOptimizationLevel
        options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        if not optimize:
            # Prepacked weights are summed in another order: results for a constant and for equal numbers from a node
            # would differ.
            options.add_session_config_entry("session.disable_prepacking", "1")
            # Planning which buffers to share takes time quadratic in the number of nodes: minutes for 10,000 of them.
            options.enable_mem_reuse = False
            # Threads that wait by spinning take time from whatever else runs, here the statistics of the results.
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._weights: dict[str, Any] = {}
        try:
            source = self._source(model)
            options.add_external_initializers(list(self._weights), list(self._weights.values()))
            self._session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except GraphOptError:
            self.close()
            raise
        except Exception as error:  # onnxruntime raises a dozen unrelated classes
            self.close()
            raise _oracle_error("cannot load", self.name, error) from error
        self.inputs = tuple(_port(i) for i in self._session.get_inputs())
        self.outputs = tuple(_port(o) for o in self._session.get_outputs())

    def run(self, inputs: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, Output]:
        """Return all outputs, or the named ones: arrays, lists of arrays for sequences, None for empty optionals.

        Raises InputError for a wrong name, dtype or shape, OracleError if ONNX Runtime fails on these inputs.
        """
        self._check(inputs)
        names = [port.name for port in self.outputs] if outputs is None else list(outputs)
        try:
            return self._run(names, dict(inputs))
        except GraphOptError:
            raise
        except Exception as error:
            raise _oracle_error("cannot run", self.name, error) from error

    def close(self) -> None:
        """Free the session and any file it was loaded from."""
        self._session = None
        self._weights = {}
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def __enter__(self) -> Reference:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _source(self, model: Model | onnx.ModelProto | bytes | str | Path) -> bytes | str:
        """Return the argument for InferenceSession: bytes, or a file's path. The weights of a Model are not copied."""
        if isinstance(model, bytes):
            return model
        if isinstance(model, str | Path):
            if not Path(model).is_file():
                raise OracleError("there is no such file", where=str(model), remedy="give the path of an ONNX file")
            return str(model)
        if isinstance(model, Model):
            return write_model(model, _Lender(model, self._weights).write).SerializeToString()
        if model.ByteSize() <= _EXTERNAL_ABOVE:
            return model.SerializeToString()
        self._folder = tempfile.TemporaryDirectory(prefix="graphopt-")
        path = Path(self._folder.name) / "model.onnx"
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        onnx.save(copy, path, save_as_external_data=True, location="model.data")
        return str(path)

    def _check(self, inputs: Mapping[str, Any]) -> None:
        expected = {port.name: port for port in self.inputs}
        overridable = {i.name for i in self._session.get_overridable_initializers()}
        for name in inputs:
            if name not in expected and name not in overridable:
                known = ", ".join(expected) or "none"
                raise InputError(f"the model has no input '{name}'", where=self.name, remedy=f"its inputs: {known}")
        for name, port in expected.items():
            if name not in inputs and not port.kind.startswith("optional"):
                raise InputError(f"input '{name}' is missing", where=self.name, remedy=f"it is a {port.kind}")
            array = inputs.get(name)
            if port.dtype is not None and isinstance(array, np.ndarray):
                _check_array(self.name, port, array)

    def _run(self, names: list[str], inputs: dict[str, Any]) -> dict[str, Output]:
        import onnxruntime as ort

        ports = [*self.inputs, *self.outputs]
        if not any(_is_foreign(port.dtype) for port in ports):
            return dict(zip(names, self._session.run(names, inputs)))
        values = {name: _to_ort(ort, np.asarray(array)) for name, array in inputs.items()}
        results = self._session.run_with_ort_values(names, values)
        return {name: _from_ort(result) for name, result in zip(names, results)}


def refuses_empty(reference: Reference, inputs: Mapping[str, Any]) -> bool:
    """Return whether ONNX Runtime fails to run a model because an input has no elements.

    Some of its fused kernels, such as that of Attention, do not support what the operators that they replace support.
    """
    if not any(isinstance(array, np.ndarray) and array.size == 0 for array in inputs.values()):
        return False
    try:
        reference.run(inputs)
    except OracleError:
        return True
    return False


def run_reference(
    model: Model | onnx.ModelProto | bytes | str | Path,
    inputs: Mapping[str, Any],
    *,
    optimize: bool = False,
    threads: int = 1,
) -> dict[str, Output]:
    """Return what ONNX Runtime computes for a model on these inputs; raises what `Reference` raises."""
    with Reference(model, optimize=optimize, threads=threads) as reference:
        return reference.run(inputs)


class _Lender:
    """Writes initializers as external ones whose memory is shared with ONNX Runtime."""

    def __init__(self, model: Model, weights: dict[str, Any]) -> None:
        # ONNX Runtime removes initializers that nothing reads before it looks for the memory of those lent to it.
        read = {n: v for n, v in model.graph.initializers.items() if v.has_uses or v.is_graph_output}
        self.lendable = {n: v.tensor for n, v in read.items() if not v.is_graph_input}
        self.weights = weights

    def write(self, tensor: Tensor, name: str) -> onnx.TensorProto:
        import onnxruntime as ort

        native = tensor.dtype is not DType.STRING and not _is_foreign(tensor.dtype)
        if tensor.nbytes <= _LEND_ABOVE or not native or self.lendable.get(name) is not tensor:
            return write_tensor(tensor, name)
        self.weights[name] = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(tensor.numpy()))
        proto = onnx.TensorProto(name=name, data_type=int(tensor.dtype), dims=tensor.shape)
        proto.data_location = onnx.TensorProto.EXTERNAL
        proto.external_data.add(key="location", value="lent")
        return proto


def _name(model: Model | onnx.ModelProto | bytes | str | Path) -> str:
    if isinstance(model, str | Path):
        return str(model)
    if isinstance(model, Model):
        return model.name
    return model.graph.name if isinstance(model, onnx.ModelProto) else "model"


def _oracle_error(what: str, name: str, error: Exception) -> OracleError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return OracleError(f"ONNX Runtime {what} it: {lines[0][:600]}", where=name)


_ORT_NAMES = {"float": DType.FLOAT, "double": DType.DOUBLE}


def _port(argument: Any) -> Port:
    dtype = None
    if argument.type.startswith("tensor("):
        text = argument.type.removeprefix("tensor(").removesuffix(")")
        dtype = _ORT_NAMES.get(text) or DType[text.upper()]
    return Port(argument.name, argument.type, dtype, tuple(argument.shape))


def _check_array(model: str, port: Port, array: np.ndarray) -> None:
    assert port.dtype is not None
    if array.dtype.kind not in "US" and array.dtype != port.dtype.numpy:
        raise InputError(f"input '{port.name}' has dtype {array.dtype}, but must have {port.dtype.text}", where=model)
    fits = len(port.shape) == array.ndim and all(
        not isinstance(dim, int) or dim == size for dim, size in zip(port.shape, array.shape)
    )
    # For ONNX Runtime, an input of unknown rank has an empty shape, like a scalar.
    if port.shape and not fits:
        expected = TensorType(port.dtype, port.shape)
        raise InputError(f"input '{port.name}' has shape {list(array.shape)}, but must have {expected}", where=model)


def _is_foreign(dtype: DType | None) -> bool:
    """Return whether numpy needs ml_dtypes for the dtype: ONNX Runtime's Python interface rejects such arrays."""
    return dtype is not None and dtype.numpy.type.__module__ == "ml_dtypes"


def _to_ort(ort: Any, array: np.ndarray) -> Any:
    if array.dtype.kind in "USO":
        return ort.OrtValue.ortvalue_from_numpy(array)
    dtype = DType.of(array)
    if not _is_foreign(dtype):
        return ort.OrtValue.ortvalue_from_numpy(array)
    if dtype.bits < 8:
        raise OracleError(f"graphopt cannot pass {dtype.text} arrays to ONNX Runtime as inputs")
    raw = np.asarray(array, order="C").view(f"u{array.dtype.itemsize}")  # `ascontiguousarray` makes scalars vectors
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(raw, int(dtype))


def _from_ort(value: Any) -> Output:
    if not value.is_tensor() or value.data_type() == "tensor(string)":
        return value.to_numpy() if hasattr(value, "to_numpy") else value.numpy()
    dtype = DType(value.element_type())
    if not _is_foreign(dtype):
        return value.numpy()
    if dtype.bits < 8:
        raise OracleError(f"graphopt cannot take {dtype.text} outputs from ONNX Runtime")
    shape = tuple(value.shape())
    raw = ctypes.string_at(value.data_ptr(), int(np.prod(shape)) * dtype.numpy.itemsize)
    return np.frombuffer(raw, dtype.numpy).reshape(shape)
