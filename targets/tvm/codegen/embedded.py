"""The data symbol of a compiled library: the virtual machine's bytecode and GPU code.

TVM embeds CUDA source, to be compiled when the library is loaded. A device has no compiler, so the source is compiled
here and replaced by GPU code. The layout is that of tvm-ffi's `library_module.cc`: the number of bytes, the tree of
modules, then each module's kind and content.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import tvm

from graphopt.targets.tvm import compat

_SYMBOL = "__tvm_ffi__library_bin"
_HOST_CODE = b"_lib"  # stands for the library itself, without content here
_NUMBER = struct.Struct("<Q")


@dataclass
class _Part:
    kind: bytes
    content: bytes | None


def embedded(module: tvm.runtime.Module, compile_cuda: Callable[[str], bytes]) -> bytes:
    """Return the data of `module` and all its imports; `compile_cuda` compiles CUDA source to GPU code."""
    text = compat.packed_imports(module)
    data = bytes(int(number, 16) for number in re.findall(r"0x([0-9a-f]{2})\b", text))
    tree, parts = _parse(data)
    for part in parts:
        if part.kind == b"cuda":
            assert part.content is not None
            part.content = _with_binary(part.content, compile_cuda)
    body = tree + b"".join(_text(p.kind) + (b"" if p.content is None else _text(p.content)) for p in parts)
    return _text(body)


def write_assembly(data: bytes, folder: Path) -> Path:
    """Write an assembly file, for any machine, that defines the data symbol; its content is in a file next to it."""
    (folder / "embedded.bin").write_bytes(data)
    path = folder / "embedded.s"
    path.write_text(
        f'.section .rodata,"a",%progbits\n.p2align 6\n.globl {_SYMBOL}\n.type {_SYMBOL}, %object\n'
        f'{_SYMBOL}:\n.incbin "{folder / "embedded.bin"}"\n.size {_SYMBOL}, {len(data)}\n'
        '.section .note.GNU-stack,"",%progbits\n'
    )
    return path


def _parse(data: bytes) -> tuple[bytes, list[_Part]]:
    """Return the bytes that describe the tree, and the modules."""
    (size,) = _NUMBER.unpack_from(data)
    assert size == len(data) - _NUMBER.size
    body = data[_NUMBER.size :]
    at = 0
    for _ in range(2):  # two arrays of numbers
        (count,) = _NUMBER.unpack_from(body, at)
        at += _NUMBER.size * (1 + count)
    return body[:at], list(_parts(body[at:]))


def _parts(data: bytes) -> Iterator[_Part]:
    at = 0
    while at < len(data):
        kind, at = _take(data, at)
        content = None
        if kind != _HOST_CODE:
            content, at = _take(data, at)
        yield _Part(kind, content)


def _with_binary(content: bytes, compile_cuda: Callable[[str], bytes]) -> bytes:
    """Return a CUDA module's content (format, table of functions, code) with its source replaced by GPU code."""
    kind, start = _take(content, 0)
    assert kind == b"cuda"
    # The table's layout is private to TVM. The source is the last field: its length, then text up to the end.
    for match in re.finditer(rb"(?s)(?=(.{8}))", content[start:]):
        at = start + match.start()
        if _NUMBER.unpack(match[1])[0] == len(content) - at - _NUMBER.size:
            source = content[at + _NUMBER.size :]
            return _text(b"cubin") + content[start:at] + _text(compile_cuda(source.decode()))
    raise ValueError("TVM's CUDA module has an unknown layout")


def _take(data: bytes, at: int) -> tuple[bytes, int]:
    (size,) = _NUMBER.unpack_from(data, at)
    begin = at + _NUMBER.size
    return data[begin : begin + size], begin + size


def _text(data: bytes) -> bytes:
    return _NUMBER.pack(len(data)) + data
