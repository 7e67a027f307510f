"""Building: targets as LLVM sees them, linking, data in libraries, runtime libraries from wheels."""

from __future__ import annotations

import hashlib
import re
import struct
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from graphopt.driver import backend
from graphopt.errors import CompileError
from graphopt.hardware import processor as cpu
from graphopt.hardware import target
from graphopt.hardware.target import Target
from graphopt.targets.tvm import TvmBackend
from graphopt.targets.tvm.codegen import build, bundle, embedded, link
from graphopt.targets.tvm.cuda import nvcc as gpu_compiler
from graphopt.targets.tvm.lowering.operand import Operand

CPU_TARGETS = [name for name in target.names() if Target.load(name).kind == "cpu"]


@pytest.mark.parametrize("name", [name for name in CPU_TARGETS if name != "host"])
def test_the_features_of_a_target_are_those_that_llvm_uses_for_it(name):
    """A feature that LLVM uses but the file lacks would not be checked on the machine that runs the code."""
    import tvm

    described = Target.load(name)
    plain = tvm.target.Target({"kind": "llvm", "mtriple": described.triple, "mcpu": described.cpu})
    used = {str(feature) for feature in tvm.get_global_func("target.llvm_get_cpu_features")(plain)}
    assert set(described.features) == used & set(cpu.FEATURES[described.machine])


@pytest.mark.parametrize("name", CPU_TARGETS)
def test_wide_vectors_are_not_split(name):
    described = Target.load(name)
    if described.vector_bits == 512:
        assert "-prefer-256-bit" in described.tuning or described.cpu.startswith("znver")


def test_a_cuda_target_says_its_architecture():
    made = build.tvm_target(Target.load("cuda:sm_90"))
    assert made.kind.name == "cuda"
    assert str(made.attrs["arch"]) == "sm_90"
    assert made.host.kind.name == "llvm"


def test_requirements():
    backend_ = backend.load()
    assert isinstance(backend_, TvmBackend)
    plain = backend_.probe(Target.load("arm"))
    assert [r.name for r in plain] == [f"{p} {version(p)}" for p in ("apache-tvm", "apache-tvm-ffi", "ziglang")]
    assert all(r.met for r in plain)
    assert "CUDA" in backend_.probe(Target.load("cuda"))[-1].name


def test_probing_imports_no_tvm():
    script = """
import sys
from graphopt.driver import backend
from graphopt.hardware import target
backend.load().probe(target.Target.load("cuda"))
assert "tvm" not in sys.modules and "tvm_ffi" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_without_nvcc_the_remedy_is_told(monkeypatch):
    monkeypatch.setattr(gpu_compiler, "find_nvcc", lambda: None)
    with pytest.raises(CompileError, match=r"needs nvcc, which was not found\n.*CUDA toolkit"):
        gpu_compiler.compile_cuda("", "sm_90")


def test_nvcc_is_looked_for_where_the_user_says(tmp_path, monkeypatch):
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text("#!/bin/sh\necho 'wrong kernel' >&2\nexit 1\n")
    nvcc.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert gpu_compiler.find_nvcc() == str(nvcc)
    with pytest.raises(CompileError, match="nvcc failed for sm_90:\nwrong kernel"):
        gpu_compiler.compile_cuda("", "sm_90")


def test_weights_are_aligned_and_come_back(tmp_path):
    arrays = [np.arange(5, dtype=np.int8), np.float32([[1.5, 2], [3, 4]]).T, np.zeros((0, 3), np.float16), np.array(7)]
    infos = build.write_weights([Operand.constant(array) for array in arrays], tmp_path / "weights.bin")
    data = (tmp_path / "weights.bin").read_bytes()
    for array, info in zip(arrays, infos):
        assert info.offset % 64 == 0
        assert (info.dtype, info.shape) == (array.dtype.name, array.shape)
        read = np.frombuffer(data, array.dtype, array.size, info.offset).reshape(array.shape)
        np.testing.assert_array_equal(read, array)


def test_weights_of_the_same_contents_are_written_once(tmp_path):
    one, other = np.arange(100, dtype=np.float32), np.ones(7, np.int8)
    operands = [Operand.constant(array) for array in (one, other, one.copy(), other.copy(), -one)]
    offsets = [info.offset for info in build.write_weights(operands, tmp_path / "weights.bin")]
    assert offsets == [0, 448, 0, 448, 512]
    assert (tmp_path / "weights.bin").stat().st_size == 512 + 400


def test_weights_are_packed_one_after_the_other(tmp_path):
    """None is asked for before the one before it is written."""
    asked: list[int] = []

    def weight(number: int) -> Operand:
        def read() -> np.ndarray:
            asked.append(number)
            assert (tmp_path / "weights.bin").exists()
            return np.full(64, number, np.float32)

        return Operand("float32", (64,), read=read)

    made = iter(weight(number) for number in range(3))
    assert not asked
    build.write_weights(made, tmp_path / "weights.bin")
    assert asked == [0, 1, 2]


SOURCE = """
extern float expf(float);
float answer(float x) { return expf(x) + 41.0f; }
"""


@pytest.mark.parametrize(("machine", "number"), [("x86_64", 62), ("aarch64", 183)])
def test_linking_needs_no_system_compiler(tmp_path, monkeypatch, machine, number):
    """PATH is empty; two links in two folders give the same bytes, without the folders in them."""
    monkeypatch.setenv("PATH", "")
    contents = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        source = folder / "source.c"
        source.write_text(SOURCE)
        link.link([source], folder / "lib.so", machine)
        contents.append((folder / "lib.so").read_bytes())
    assert contents[0] == contents[1]
    assert contents[0][:4] == b"\x7fELF"
    assert struct.unpack_from("<H", contents[0], 18) == (number,)
    assert str(tmp_path).encode() not in contents[0]


def test_a_failed_link_is_told(tmp_path):
    (tmp_path / "broken.o").write_bytes(b"no object")
    with pytest.raises(CompileError, match=r"linking for x86_64 failed:\n(.|\n)*broken.o"):
        link.link([tmp_path / "broken.o"], tmp_path / "lib.so", "x86_64")


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    """Zig then keeps its libraries in a temporary folder, which goes away."""
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(link.platformdirs, "user_cache_dir", lambda name: str(tmp_path / "file"))
    seen = []

    def run(command, env, **options):
        seen.append(Path(env["ZIG_GLOBAL_CACHE_DIR"]))
        assert seen[0].is_dir()
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(link.subprocess, "run", run)
    link.link([], tmp_path / "lib.so", "x86_64")
    assert tmp_path not in seen[0].parents
    assert not seen[0].exists()


def number(value: int) -> bytes:
    return struct.pack("<Q", value)


def text(value: bytes) -> bytes:
    return number(len(value)) + value


def test_cuda_source_in_a_library_is_replaced_by_gpu_code(monkeypatch):
    """A tree of three modules: bytecode, host code, CUDA source. Only the last changes."""
    tree = number(4) + b"".join(map(number, (0, 1, 2, 2))) + number(2) + number(1) + number(2)
    table = number(1) + text(b"kernel") + number(3) + b"\1\2\3"
    source = "__global__ void kernel() { /* \u00e9 */ }".encode()
    before = tree + text(b"vm") + text(b"bytecode") + text(b"_lib") + text(b"cuda")
    before += text(text(b"cuda") + table + text(source))
    listing = "x[] = {" + ",".join(f"0x{byte:02x}" for byte in text(before)) + "};"
    monkeypatch.setattr(embedded.tvm, "get_global_func", lambda name: lambda *arguments: listing)
    seen = []
    after = embedded.embedded(None, lambda cuda: seen.append(cuda) or b"\0binary\xff")
    assert seen == [source.decode()]
    wanted = tree + text(b"vm") + text(b"bytecode") + text(b"_lib") + text(b"cuda")
    assert after == text(wanted + text(text(b"cubin") + table + text(b"\0binary\xff")))


def test_bundled_libraries_are_of_the_pinned_versions():
    pyproject = (Path(__file__).parents[3] / "pyproject.toml").read_text()
    for library in (bundle._FFI_LIBRARY, bundle._RUNTIME_LIBRARY, bundle._CUDA_LIBRARY):
        assert re.search(rf'"{re.escape(library.requirement)}"', pyproject)
        assert set(library.sha256) == set(cpu.FEATURES)


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A package index of one wheel, an empty cache, and a machine of another kind to fetch for."""
    cache = tmp_path / "cache"
    monkeypatch.setattr(bundle.platformdirs, "user_cache_dir", lambda name: str(cache))
    content = b"a library"
    library = bundle._Library(
        "some-package==1.0", "some/lib/libsome.so", {"aarch64": hashlib.sha256(content).hexdigest()}
    )
    monkeypatch.setattr(bundle, "_FFI_LIBRARY", library)
    monkeypatch.setattr(bundle, "_RUNTIME_LIBRARY", library)
    monkeypatch.setattr(bundle.cpu, "machine", lambda: "x86_64")
    commands = []

    def pip(command, **options):
        commands.append(command)
        folder = Path(command[command.index("--dest") + 1])
        with zipfile.ZipFile(folder / "some_package-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr("some/lib/libsome.so", pip.content)
        return subprocess.CompletedProcess(command, 0, "", "")

    pip.content = content
    pip.commands = commands
    monkeypatch.setattr(bundle.subprocess, "run", pip)
    return pip


def test_libraries_for_another_machine_are_fetched_once(registry, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        assert bundle.bundle(Target.load("arm"), tmp_path / name) == ("libsome.so", "libsome.so")
        assert (tmp_path / name / "libsome.so").read_bytes() == b"a library"
    (command,) = registry.commands
    assert "manylinux_2_28_aarch64" in command
    assert "some-package==1.0" in command


def test_another_library_than_expected_is_not_used(registry, tmp_path):
    registry.content = b"something else"
    with pytest.raises(CompileError, match="contains an unexpected file: its SHA-256 differs"):
        bundle.bundle(Target.load("arm"), tmp_path)
    assert not list((tmp_path / "cache").rglob("*.so"))


def test_an_index_that_cannot_be_reached(registry, tmp_path, monkeypatch):
    def offline(command, **options):
        return subprocess.CompletedProcess(command, 1, "", "WARNING: retrying\nERROR: Could not find a version\n")

    monkeypatch.setattr(bundle.subprocess, "run", offline)
    with pytest.raises(CompileError, match=r"download some-package==1.0: ERROR: Could not(.|\n)*go online once"):
        bundle.bundle(Target.load("arm"), tmp_path)


CONCATS = " ".join(f"y{n + 1} = Concat <axis = 0> (y{n}, x)" for n in range(1, 12))
LENGTHS = ", ".join(f"float[M{n}] y{n}" for n in range(2, 13))
CONVS = " ".join(f"c{n} = Conv <strides = [2, 2]> (x{n}, w)  y{n} = Add(c{n}, b)" for n in range(6))
PICTURES = ", ".join(f"float[N,2,H{n},W{n}] x{n}" for n in range(6))
MAPS = ", ".join(f"float[N,2,h{n},w{n}] y{n}" for n in range(6))


@pytest.mark.parametrize(
    "text",
    [
        f"g (float[N] x) => ({LENGTHS}) {{ y1 = Identity(x) {CONCATS} }}",
        f"g ({PICTURES}, float[2,2,3,3] w, float[2,1,1] b) => ({MAPS}) {{ {CONVS} }}",
    ],
    ids=["many sizes computed from one", "fused functions that are given two sizes"],
)
def test_sizes_come_in_one_order(tmp_path, text):
    """TVM leaves both kinds in the order of memory addresses, which no two builds share."""
    from graphopt.ir.text import parse
    from graphopt.targets.tvm.cpu.pipeline import Cpu
    from graphopt.targets.tvm.device import fuse_and_schedule
    from graphopt.targets.tvm.lowering.lower import lower
    from graphopt.targets.tvm.machine import machine_for

    model = parse(f'<ir_version: 10, opset_import: ["" : 21]> {text}')
    host = Target.load("host")
    contents = []
    for name in ("one.so", "two.so"):
        scheduled = fuse_and_schedule(lower(model).mod, build.tvm_target(host), Cpu(machine_for(host)))
        build.build_library(scheduled, host, tmp_path / name, lambda what, done: None)
        contents.append((tmp_path / name).read_bytes().replace(name.encode(), b""))
    assert contents[0] == contents[1]
