"""Protobuf's wire format, as far as needed to read and write a model without copying its weights.

A message is a sequence of fields, each a tag and a value (protobuf.dev/programming-guides/encoding); fields may be in
any order, and a message within a message is a field whose value has a length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import onnx
from google.protobuf.message import DecodeError

MAPPED_BYTES = 1 << 20
"""The size of tensors from which on they stay in the file, which is memory-mapped."""
_VARINT, _EIGHT, _LENGTH, _FOUR = 0, 1, 2, 5


class _Field(NamedTuple):
    """A field of a message: its number, and the positions of its tag and value."""

    number: int
    kind: int
    tag: int
    start: int
    end: int


def without_weights(data: memoryview, location: str) -> tuple[bytes, dict[str, tuple[int, int]]] | None:
    """Return the serialized model `data` with the large initializers of its graph as external data, and their places.

    `location` is the name of the file that contains `data`; a place is offset and length. None if nothing is large, or
    if `data` is not a complete message; parsing it will then report the error.
    """
    places: dict[str, tuple[int, int]] = {}

    def tensor(start: int, end: int) -> bytes:
        fields = list(_fields(data, start, end))
        raw = [f for f in fields if f.number == onnx.TensorProto.RAW_DATA_FIELD_NUMBER]
        external = any(f.number == onnx.TensorProto.DATA_LOCATION_FIELD_NUMBER for f in fields)
        if external or len(raw) != 1 or raw[0].end - raw[0].start < MAPPED_BYTES:
            return bytes(data[start:end])
        rest = onnx.TensorProto(data_location=onnx.TensorProto.EXTERNAL)
        entries = {"location": location, "offset": str(raw[0].start), "length": str(raw[0].end - raw[0].start)}
        for key, value in entries.items():
            rest.external_data.add(key=key, value=value)
        kept = (bytes(data[f.tag : f.end]) for f in fields if f.number != onnx.TensorProto.RAW_DATA_FIELD_NUMBER)
        head = b"".join(kept)
        try:
            places[onnx.TensorProto.FromString(head).name] = raw[0].start, raw[0].end - raw[0].start
        except DecodeError:
            raise ValueError("no tensor") from None
        return head + rest.SerializeToString()

    def message(start: int, end: int, number: int, change: Callable[[int, int], bytes]) -> bytes:
        parts = []
        for f in _fields(data, start, end):
            if f.number == number and f.kind == _LENGTH:
                value = change(f.start, f.end)
                parts.append(length_delimited(number, len(value)) + value)
            else:
                parts.append(bytes(data[f.tag : f.end]))
        return b"".join(parts)

    def graph(start: int, end: int) -> bytes:
        return message(start, end, onnx.GraphProto.INITIALIZER_FIELD_NUMBER, tensor)

    try:
        changed = message(0, len(data), onnx.ModelProto.GRAPH_FIELD_NUMBER, graph)
    except ValueError:
        return None
    return (changed, places) if places else None


def _fields(data: memoryview, start: int, end: int) -> Iterator[_Field]:
    """Yield the fields of the message that is `data[start:end]`. Raises ValueError if it is not one."""
    place = start
    while place < end:
        tag, value = _read_varint(data, place, end)
        kind = tag & 7
        if kind == _VARINT:
            _, stop = _read_varint(data, value, end)
        elif kind == _LENGTH:
            length, value = _read_varint(data, value, end)
            stop = value + length
        elif kind in (_EIGHT, _FOUR):
            stop = value + (8 if kind == _EIGHT else 4)
        else:
            raise ValueError("a group, or no message")
        if stop > end:
            raise ValueError("truncated")
        yield _Field(tag >> 3, kind, place, value, stop)
        place = stop


def _read_varint(data: memoryview, place: int, end: int) -> tuple[int, int]:
    """Return the number at `place`, and where it ends."""
    number = shift = 0
    while place < end and shift < 70:
        byte = data[place]
        number |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return number, place
    raise ValueError("no number")


def length_delimited(number: int, length: int) -> bytes:
    """Return the head of a length-delimited field: its tag and length, each a varint."""
    return _varint(number << 3 | _LENGTH) + _varint(length)


def _varint(value: int) -> bytes:
    digits = bytearray()
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    digits.append(value)
    return bytes(digits)
