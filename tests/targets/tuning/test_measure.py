"""Kernels measured in real processes, here and at a local tracker; some of them crash, hang or cannot be built."""

from __future__ import annotations

import functools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import te, tirx
from tvm.script import tirx as T

from graphopt.driver.optimizing import run_passes
from graphopt.driver.tuning import Budget, Remote, Tuning
from graphopt.errors import CompileError, InputError
from graphopt.hardware.target import Target
from graphopt.targets.tvm.cpu.schedule import schedule_function
from graphopt.targets.tvm.kernels.family import bare_function
from graphopt.targets.tvm.kernels.plans import default
from graphopt.targets.tvm.machine import machine_for
from graphopt.targets.tvm.tuning import remote, spending, tuner
from graphopt.targets.tvm.tuning import tune as tuning
from graphopt.targets.tvm.tuning.measure import TvmBench, check_packages
from graphopt.targets.tvm.tuning.records import SUFFIX, Record, read_folder
from tests.helpers import model_of
from tests.targets.tuning.support import conv

HOST = Target.load("host")
SECONDS = 5.0
KEY = "test-device"


def kernel() -> tirx.PrimFunc:
    machine = machine_for(HOST)
    family, plan = default(conv(kernel=1), machine)
    return schedule_function(bare_function(family, conv(kernel=1), plan), machine)


def calling(what: str) -> tirx.PrimFunc:
    """A kernel that calls a function of the C library once it runs."""

    @T.prim_func
    def main(x: T.Buffer((8,), "float32"), w: T.Buffer((8,), "float32"), y: T.Buffer((8,), "float32")):  # type: ignore
        T.func_attr({"global_symbol": "main", "tirx.noalias": True})
        T.evaluate(T.call_extern("int32", what))
        for i in range(8):
            y[i] = x[i] + w[i]

    return main


def unbuildable() -> tirx.PrimFunc:
    """A kernel that uses a size which nothing defines."""
    x = te.placeholder((8,), "float32", "x")
    free = tirx.Var("free", "int64")
    made = te.create_prim_func([x, te.compute((8,), lambda i: x[i] + free.astype("float32"))], "int64")
    return tvm.tirx.PrimFunc(made.params, made.body, made.ret_type, made.attrs).with_attr("global_symbol", "main")


@pytest.fixture(scope="module")
def bench() -> Iterator[TvmBench]:
    with TvmBench(HOST, run_seconds=SECONDS) as made:
        yield made


def test_what_fails_costs_only_itself(bench: TvmBench) -> None:
    """Test a candidate that aborts, one that hangs, and one that cannot be built, between two good ones."""
    functions = [kernel(), calling("abort"), calling("pause"), unbuildable(), kernel()]
    libraries = bench.build(functions)
    assert [library is None for library in libraries] == [False, False, False, True, False]
    start = time.monotonic()
    times = [library and bench.time(function, library) for function, library in zip(functions, libraries, strict=True)]
    assert [bool(seconds) for seconds in times] == [True, False, False, False, True]
    assert all(0 < seconds < 1 for seconds in times if isinstance(seconds, float))
    assert time.monotonic() - start > SECONDS, "the one that hangs was waited for"


def scaled(factor: float) -> tirx.PrimFunc:
    x = te.placeholder((30,), "float32", "x")
    made = te.create_prim_func([x, te.compute((30,), lambda i: x[i] * tirx.const(factor, "float32"))], "int64")
    return made.with_attr("global_symbol", "main")


def test_results_are_compared(bench: TvmBench) -> None:
    functions = [scaled(3.0), scaled(3.0000001), scaled(3.01), calling("abort"), kernel()]
    same, near, far, crashing, other = bench.build(functions)
    assert same
    assert near
    assert far
    assert crashing
    assert other
    assert bench.compare(functions[0], same, near) == ""
    assert "argument 1" in bench.compare(functions[0], same, far)
    assert bench.compare(functions[3], crashing, crashing) != ""
    assert bench.compare(functions[0], same, other) != "", "it takes other arguments"
    assert bench.compare(functions[0], near, same) == "", "the worker was started anew"


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with TvmBench(HOST) as bench:
        (library,) = bench.build([kernel()])
        assert library is not None
        assert library.is_relative_to(tmp_path)
    assert not list(tmp_path.rglob("*.so"))


def test_a_missing_package_is_named() -> None:
    with pytest.raises(CompileError, match=r"tuning needs no_such_package\n.*pip install no_such_package"):
        check_packages(("cloudpickle", "no_such_package"))


# --- another machine: a tracker and a server on this one


@pytest.fixture(scope="module")
def tracker() -> Iterator[tuple[str, int]]:
    """A tracker that lends one device of key KEY."""
    with lending() as (_, address):
        yield address


@contextmanager
def lending() -> Iterator[tuple[subprocess.Popen[str], tuple[str, int]]]:
    """The process of a tracker that lends one device, and its address."""
    script = (
        "from tvm.rpc.tracker import Tracker; from tvm.rpc.server import Server; import sys\n"
        "tracker = Tracker('127.0.0.1', port=19190, port_end=19990)\n"
        f"server = Server('127.0.0.1', port=20190, port_end=20990, key={KEY!r}, is_proxy=False,\n"
        "                tracker_addr=('127.0.0.1', tracker.port))\n"
        "print(tracker.port, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    try:
        yield process, ("127.0.0.1", int(process.stdout.readline()))
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for_device(address: tuple[str, int]) -> None:
    from tvm.s_tir.meta_schedule.runner import RPCConfig

    for _ in range(100):
        if RPCConfig(*address, KEY).count_num_servers():
            return
        time.sleep(0.1)
    raise AssertionError("the server did not register")


def test_measuring_on_another_machine(tracker: tuple[str, int]) -> None:
    wait_for_device(tracker)
    functions = [kernel(), kernel()]
    with TvmBench(HOST, Remote(*tracker, KEY), run_seconds=SECONDS) as bench:
        libraries = bench.build(functions)
        times = [library and bench.time(function, library) for function, library in zip(functions, libraries)]
        assert all(isinstance(seconds, float) and 0 < seconds < 1 for seconds in times), times
        same, far = bench.build([scaled(3.0), scaled(3.01)])
        assert same
        assert far
        assert bench.compare(scaled(3.0), same, same) == ""
        assert "argument 1" in bench.compare(scaled(3.0), same, far)


def test_a_key_that_the_tracker_does_not_know(tracker: tuple[str, int]) -> None:
    with pytest.raises(InputError, match="has no device with key 'pi'"):
        TvmBench(HOST, Remote(*tracker, "pi"))


def test_a_device_that_goes_away_is_noticed(tracker: tuple[str, int]) -> None:
    wait_for_device(tracker)
    functions = [calling("abort"), kernel()]
    with TvmBench(HOST, Remote(*tracker, KEY), run_seconds=SECONDS) as bench:
        libraries = bench.build(functions)
        assert libraries[0] is not None
        assert libraries[1] is not None
        assert bench.time(functions[0], libraries[0]) is None
        with pytest.raises(CompileError, match="does not respond any more"):  # TVM's server ended with the kernel
            bench.time(functions[1], libraries[1])


def test_a_tracker_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "CONNECT_SECONDS", 2)
    with pytest.raises(InputError, match=r"127.0.0.1:1: no tracker can be reached"):
        TvmBench(HOST, Remote("127.0.0.1", 1, KEY))


@pytest.mark.parametrize("answer", [None, b"", b"HTTP/1.1 400 Bad Request\r\n", b"ab"], ids=str)
def test_a_server_that_is_no_tracker(answer: bytes | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start a server that says nothing, disconnects, says something else, or starts to respond."""
    monkeypatch.setattr(remote, "CONNECT_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                if answer is None:
                    open_ones.append(connection)
                else:
                    connection.sendall(answer)
                    connection.close()

        open_ones: list[socket.socket] = []
        threading.Thread(target=serve, daemon=True).start()
        port = server.getsockname()[1]
        with pytest.raises(InputError, match=rf"127.0.0.1:{port}: no tracker can be reached"):
            TvmBench(HOST, Remote("127.0.0.1", port, KEY))
        server.shutdown(socket.SHUT_RDWR)
        for connection in open_ones:
            connection.close()


def test_tuning_ends_with_a_message_when_the_device_goes_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Earlier measurements are kept."""
    weight = np.ones((16, 16, 1, 1), np.float32)
    model = model_of("net (float[1,16,9,9] x) => (float[1,16,9,9] y) { y = Conv (x, w) }", {"w": weight})
    run_passes(model, "layout", target=HOST)
    monkeypatch.setattr(tuner, "TOGETHER", 1)
    monkeypatch.setattr(spending, "ROUNDS", 1)
    monkeypatch.setattr(tuning, "TvmBench", functools.partial(TvmBench, run_seconds=2))
    with lending() as (process, address):
        wait_for_device(address)
        asked = Tuning(Budget(seconds=600), str(tmp_path), remote=Remote(*address, KEY))

        def progress(what: str, done: float) -> None:
            if list(tmp_path.iterdir()):
                os.killpg(process.pid, signal.SIGKILL)

        with pytest.raises(CompileError, match=f"127.0.0.1:{address[1]}, key {KEY}: the device does not respond"):
            tuning.tune(model, HOST, asked, progress)
    (record,) = read_folder(tmp_path, SUFFIX, Record.of_line)
    assert record.winner.seconds
    assert not record.complete
