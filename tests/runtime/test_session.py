"""Running an artifact: light imports, threads, checks of the inputs, arrays that belong to the caller."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import weakref
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from graphopt import runtime
from graphopt.driver import compiling as compiler
from graphopt.errors import InputError
from graphopt.hardware import processor as cpu
from graphopt.ir.text import parse
from graphopt.runtime import inputs as runtime_inputs
from graphopt.runtime.manifest import TensorInfo
from tests.compiled import compiled, expected, inputs

SCRIPT = """
import sys
import numpy as np
from graphopt import runtime
session = runtime.load(sys.argv[1], threads=1)
x = np.ones((2, 16), np.float32)
y = session.run({"x": x, "bias": np.zeros((2, 32), np.float32)})["h"]
assert y.shape == (2, 32), y.shape
heavy = {"tvm", "onnx", "onnxruntime", "onnx_graphsurgeon", "networkx", "graphopt.ir"} & set(sys.modules)
assert not heavy, heavy
print("ran", session.threads)
"""


@pytest.fixture(scope="module")
def session() -> runtime.Session:
    return runtime.load(compiled().folder)


def run_script(text: str, *arguments: str, **environment: str) -> str:
    env = {key: value for key, value in os.environ.items() if key != "TVM_NUM_THREADS"}
    command = [sys.executable, "-c", text, *arguments]
    result = subprocess.run(command, env={**env, **environment}, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_nothing_heavy_is_imported():
    assert run_script(SCRIPT, str(compiled().folder)).strip() == "ran 1"


def test_a_bundled_runtime_needs_no_tvm(tmp_path):
    """With tvm hidden, the library beside the artifact is used."""
    hide = """
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == "tvm" else find(name, *more)
"""
    folder = compiled(bundle_runtime=True).save(tmp_path / "bundled.gopt")
    assert (folder / "libtvm_runtime.so").is_file()
    assert run_script(hide + SCRIPT, str(folder)).strip() == "ran 1"


def test_a_bundled_runtime_is_not_loaded_beside_another_one(tmp_path):
    """TVM aborts a process that loads a second copy of it."""
    folder = compiled(bundle_runtime=True).save(tmp_path / "bundled.gopt")
    script = "import sys, tvm\nfrom graphopt import runtime\nprint('loaded', len(runtime.load(sys.argv[1]).inputs))"
    assert run_script(script, str(folder)).strip() == f"loaded {len(runtime.load(folder).inputs)}"


def test_without_a_runtime_it_says_where_to_get_one(tmp_path):
    script = """
import importlib.util, sys
from graphopt import runtime
from graphopt.errors import ArtifactError
importlib.util.find_spec = lambda name, *more: None
try:
    runtime.load(sys.argv[1])
except ArtifactError as error:
    print(error)
"""
    said = run_script(script, str(compiled().folder))
    assert "libtvm_runtime.so is missing" in said
    assert "--bundle-runtime" in said


def test_one_artifact_for_several_sizes(session):
    for rows in (1, 3, 17):
        given = inputs(rows)
        outputs = session.run(given)
        assert list(outputs) == ["y", "h"]
        for name, array in expected(given).items():
            np.testing.assert_allclose(outputs[name], array, atol=1e-5)


def test_no_rows_at_all(session):
    assert session.run(inputs(0))["y"].shape == (0, 32)


@pytest.mark.parametrize("shape", [(0,), (0, 16), (16, 0), (4, 0, 3), (2, 3, 0, 0)])
@pytest.mark.parametrize("make", [np.empty, np.zeros, lambda shape, dtype: np.ndarray(shape, dtype, bytearray(64))])
def test_arrays_without_elements_are_compact(shape, make):
    """numpy does not care for their strides; compiled code checks them."""
    info = (TensorInfo("x", "float32", (None,) * len(shape)),)
    (array,) = runtime_inputs.check(info, {"x": make(shape, np.float32)})
    assert array.shape == shape
    assert array.strides == tuple(4 * int(np.prod(shape[axis + 1 :])) for axis in range(len(shape)))


def test_threads():
    script = """
import ctypes, sys, tvm_ffi
from graphopt import runtime
import numpy as np
for asked in (1, 2, 1, None, 10_000):
    session = runtime.load(sys.argv[1], threads=asked)
    session.run({"x": np.ones((2, 16), np.float32), "bias": np.zeros((2, 32), np.float32)})
    at_most = ctypes.CDLL(None)["_ZN3tvm7runtime9threading14MaxConcurrencyEv"]()
    # With 1, no loop is given to the pool, which may not even exist.
    print(session.threads, 1 if at_most == 1 else tvm_ffi.get_global_func("runtime.NumThreads")())
"""
    most = len(cpu.allowed())
    expected = [1, min(2, most), 1, min(cpu.current().cores, most), most]
    lines = run_script(script, str(compiled().folder)).split("\n")
    assert [line.split() for line in lines if line] == [[str(n), str(n)] for n in expected]
    environment = run_script(script, str(compiled().folder), TVM_NUM_THREADS="1").split("\n")
    assert environment[3] == "1 1"


SESSIONS = """
import os, sys, threading, time
import numpy as np
from graphopt import runtime

per_session = int(sys.argv[2])
sessions = [runtime.load(sys.argv[1], threads=per_session) for _ in range(2)]
given = [{"x": np.full((200, 16), n + 1, np.float32), "bias": np.ones((200, 32), np.float32)} for n in range(2)]
wanted = [session.run(g)["h"] for session, g in zip(sessions, given)]
assert not np.array_equal(*wanted)
count = lambda: len(os.listdir("/proc/self/task"))
before, most, meet, wrong = count(), [], threading.Barrier(2), []

def work(n):
    for _ in range(50):
        meet.wait()
        wrong.append(not np.array_equal(sessions[n].run(given[n])["h"], wanted[n]))
        most.append(count())

workers = [threading.Thread(target=work, args=(n,)) for n in range(2)]
for worker in workers: worker.start()
for worker in workers: worker.join()
assert len(wrong) == 100 and not any(wrong)
ends = time.monotonic() + 30  # the system's threads end a little after Python's
while count() > before and time.monotonic() < ends: time.sleep(0.01)
print(max(most) - before, count() - before)
"""


@pytest.mark.parametrize("per_session", [1, 2])
def test_sessions_side_by_side_have_no_more_threads_than_they_may(per_session):
    """Each caller with a pool of its own, if its session uses more than one thread; the pool ends with the caller."""
    added, left = map(int, run_script(SESSIONS, str(compiled().folder), str(per_session)).split())
    workers = len(cpu.allowed()) - 1 if per_session > 1 else 0
    assert 2 <= added <= 2 + 2 * workers
    assert left == 0


def test_idle_workers_soon_sleep():
    """They wait by giving their time slice away; this long after a run they would still do so by TVM's default."""
    script = """
import sys, time
import numpy as np
from graphopt import runtime
session = runtime.load(sys.argv[1], threads=2)
session.run({"x": np.ones((2000, 16), np.float32), "bias": np.zeros((2000, 32), np.float32)})
time.sleep(0.1)
before = time.process_time()
time.sleep(0.1)
print(time.process_time() - before)
"""
    assert float(run_script(script, str(compiled().folder))) < 0.05


def test_the_calling_thread_is_not_pinned(session):
    before = cpu.allowed()
    session.run(inputs())
    assert cpu.allowed() == before


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2"])
def test_a_wrong_thread_count(threads):
    with pytest.raises(InputError, match="threads must be a whole number of at least 1"):
        runtime.load(compiled().folder, threads=threads)


def test_outputs_belong_to_the_caller(session):
    first = session.run(inputs(seed=1))
    kept = {name: array.copy() for name, array in first.items()}
    second = session.run(inputs(seed=2))
    for name in first:
        np.testing.assert_array_equal(first[name], kept[name])
        assert not np.may_share_memory(first[name], second[name])
        first[name] += 1


def test_inputs_are_not_changed_and_may_lie_anywhere(session):
    given = inputs(4)
    answer = session.run(given)["y"]
    x = given["x"]
    shifted = np.empty(x.size + 1, np.float32)[1:].reshape(x.shape)
    shifted[:] = x
    frozen = x.copy()
    frozen.flags.writeable = False
    for other in (np.asfortranarray(x), np.repeat(x, 2, axis=0)[::2], shifted, frozen, x.tolist()):
        variant = np.asarray(other, np.float32) if isinstance(other, list) else other
        before = variant.copy()
        np.testing.assert_array_equal(session.run({**given, "x": variant})["y"], answer)
        np.testing.assert_array_equal(variant, before)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda g: {"x": g["x"]}, r"no array given for input 'bias'\n.*the inputs are: x, bias"),
        (lambda g: {**g, "biass": g["bias"]}, r"there is no input 'biass'\n.*did you mean 'bias'"),
        (lambda g: {**g, "x": g["x"].astype(np.float64)}, r"has dtype float64, but the model takes float32\n.*astype"),
        (lambda g: {**g, "x": g["x"].astype(">f4")}, "has dtype >f4, but the model takes float32"),
        (lambda g: {**g, "x": g["x"][0]}, r"has shape \[16\] of rank 1, but the model takes \[N, 16\]"),
        (lambda g: {**g, "x": g["x"][:, :3]}, "has size 3 on axis 1"),
        (lambda g: {**g, "x": g["x"][:2]}, r"dimension 'N' is 2 \(input 'x', axis 0\)"),
        (lambda g: {**g, "x": [[1.0], [2.0, 3.0]]}, "input 'x': is not an array"),
        (lambda g: [g["x"]], "inputs must be a mapping of name to array, not list"),
    ],
)
def test_a_wrong_input_is_named(session, change, problem):
    with pytest.raises(InputError, match=problem):
        session.run(change(inputs()))


def test_from_several_threads_at_once(session):
    given = [inputs(5, seed) for seed in range(4)]
    answers: dict[int, np.ndarray] = {}

    def work(index: int) -> None:
        for _ in range(5):
            answers[index] = session.run(given[index])["h"]

    workers = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for index, answer in answers.items():
        np.testing.assert_allclose(answer, expected(given[index])["h"], atol=1e-5)


KINDS = {
    "float": np.float32([1, 2]),
    "bool": np.array([True, False]),
    "int64": np.array([1, -(2**40)]),
    "uint8": np.uint8([255, 0]),
    "float16": np.float16([1.5, 2]),
    "bfloat16": np.array([1.5, 2], ml_dtypes.bfloat16),
}


def test_outputs_that_are_inputs_are_copies():
    """Identity of an input, twice, and a scalar: three arrays of the right dtype that share nothing."""
    given = ", ".join(f"{k}[N] x_{k}, {k} s_{k}" for k in KINDS)
    taken = ", ".join(f"{k}[N] a_{k}, {k}[N] b_{k}, {k} c_{k}" for k in KINDS)
    body = " ".join(f"a_{k} = Identity(x_{k})  b_{k} = Identity(a_{k})  c_{k} = Identity(s_{k})" for k in KINDS)
    artifact = compiler.compile(
        parse(f'<ir_version: 10, opset_import: ["" : 21]> same ({given}) => ({taken}) {{ {body} }}'), passes=""
    )
    arrays: dict[str, Any] = {f"x_{k}": array for k, array in KINDS.items()}
    arrays.update({f"s_{k}": array[0] for k, array in KINDS.items()})
    outputs = artifact.run(arrays)
    for k, array in KINDS.items():
        for name, wanted in ((f"a_{k}", array), (f"b_{k}", array), (f"c_{k}", np.asarray(array[0]))):
            assert outputs[name].dtype == array.dtype
            assert outputs[name].shape == wanted.shape
            np.testing.assert_array_equal(outputs[name], wanted)
        assert not np.may_share_memory(outputs[f"a_{k}"], outputs[f"b_{k}"])
        assert not np.may_share_memory(outputs[f"a_{k}"], array)


def misaligned(array: np.ndarray, offset: int) -> np.ndarray:
    """The same numbers, `offset` elements after a multiple of 64 bytes."""
    buffer = np.empty(array.size + 32, array.dtype)
    start = -buffer.ctypes.data % 64 // array.itemsize + offset
    view = buffer[start : start + array.size].reshape(array.shape)
    view[...] = array
    return view


def frozen(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view


@pytest.mark.parametrize("change", [lambda a: a, lambda a: misaligned(a, 0), lambda a: misaligned(a, 1), frozen])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_compact_arrays_are_handed_over_without_a_copy(change, dtype):
    info = (TensorInfo("x", dtype, ("N",)),)
    array = change(np.arange(8).astype(dtype))
    taken = runtime_inputs.check(info, {"x": array})[0]
    assert taken.ctypes.data == array.ctypes.data
    assert taken.flags.writeable
    np.testing.assert_array_equal(taken, array)


def test_a_frozen_array_lives_as_long_as_what_is_made_of_it():
    info = (TensorInfo("x", "float32", ("N",)),)
    array = frozen(np.arange(1000, dtype=np.float32))
    alive = weakref.ref(array)
    taken = runtime_inputs.check(info, {"x": array})[0]
    del array
    gc.collect()
    assert alive() is not None
    np.testing.assert_array_equal(taken, np.arange(1000, dtype=np.float32))
    del taken
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("offset", range(8))
def test_inputs_are_read_at_any_address(session, offset):
    """An aligned load of a vector would end the process."""
    given = inputs(5)
    answer = session.run(given)
    moved = session.run({name: misaligned(array, offset) for name, array in given.items()})
    for name, array in answer.items():
        np.testing.assert_array_equal(moved[name], array)


def test_what_is_wrong_after_a_run_that_was_right_is_refused():
    """The quick check of inputs like the last ones lets nothing else through."""
    check = runtime_inputs.Inputs((TensorInfo("x", "float32", ("N", 2)), TensorInfo("y", "int64", ("N",))))
    right = {"x": np.zeros((3, 2), np.float32), "y": np.zeros(3, np.int64)}
    for _ in range(2):
        assert [a is b for a, b in zip(check.check(right), right.values(), strict=True)] == [True, True]
    for wrong in (
        {"x": right["x"]},
        {**right, "z": right["y"]},
        {"x": right["x"], "z": right["y"]},
        {**right, "x": right["x"].astype(np.float64)},
        {**right, "x": right["x"].astype(">f4")},
        {**right, "x": right["x"][:2]},
        {**right, "x": right["x"][0]},
        {**right, "y": right["y"].reshape(3, 1)},
        {**right, "y": [1.5, 2, 3]},
        list(right),
    ):
        with pytest.raises(InputError):
            check.check(wrong)
    scattered = np.zeros((3, 4), np.float32)[:, ::2]
    assert check.check({**right, "x": scattered})[0].flags.c_contiguous
    longer = {"x": np.zeros((4, 2), np.float32), "y": np.zeros(4, np.int64)}
    assert check.check(longer)[0] is longer["x"]


def test_results_that_are_constants_belong_to_the_caller():
    """Folded, reshaped, or out of a branch: what a caller does to them, the next run does not see."""
    artifact = compiler.compile(
        parse(
            """<ir_version: 10, opset_import: ["" : 21]>
            same (bool b, float[2] x) => (float[2] z, float[2] q, float[1,2] v, float[2] r, float[2] s)
            <float[2] c = {1, 2}, int64[2] shape = {1, 2}> {
              z = Identity(c)  q = Add(c, c)  v = Reshape(c, shape)
              r = If(b) <then_branch = t () => (float[2] y) { y = Add(c, c) }, else_branch = e () => (float[2] w)
                { w = Identity(x) }>
              s = If(b) <then_branch = t2 () => (float[2] k) { k = Identity(x) }, else_branch = e2 () => (float[2] l)
                { l = Identity(c) }>
            }"""
        ),
        passes="",
    )
    x = np.float32([5, 6])
    for b in (True, False, True, False):
        outputs = artifact.run({"b": np.array(b), "x": x})
        wanted = {"z": [1, 2], "q": [2, 4], "v": [[1, 2]], "r": [2, 4] if b else [5, 6], "s": [5, 6] if b else [1, 2]}
        for name, array in outputs.items():
            np.testing.assert_array_equal(array, np.float32(wanted[name]), err_msg=name)
            array += 100
        np.testing.assert_array_equal(x, [5, 6])


def test_constants_that_folding_leaves_without_elements():
    """TVM cannot read them back from a library."""
    artifact = compiler.compile(
        parse(
            """<ir_version: 10, opset_import: ["" : 21]>
            parts (float[1,3] x) => (float[1,0] none, float[1,3] all)
            <float[1,2] c = {1, 2}, int64[2] n = {2, 0}> {
              s = Sinh(c)  some, none = Split<axis = 1>(s, n)  all = Concat<axis = 1>(x, none)
            }"""
        ),
        passes="",
    )
    outputs = artifact.run({"x": np.float32([[1, 2, 3]])})
    assert outputs["none"].shape == (1, 0)
    np.testing.assert_array_equal(outputs["all"], [[1, 2, 3]])
