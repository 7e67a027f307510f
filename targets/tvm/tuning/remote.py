"""Measurement on another machine, through TVM's RPC: the runner, and what runs in its worker."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from graphopt.driver.tuning import Remote
from graphopt.errors import InputError
from graphopt.targets.tvm.tuning.messages import last_line

THREADS = 1
REPEATS = 16
"""The number of repetitions, more than on this machine because wall time is disturbed more."""
CONNECT_SECONDS = 10


def remote_runner(remote: Remote, seconds: float) -> Any:
    """Return a runner on a device of the tracker. Raises InputError as `check_remote` does."""
    from tvm.s_tir.meta_schedule.runner import EvaluatorConfig, RPCConfig, RPCRunner

    check_remote(remote)
    return RPCRunner(
        RPCConfig(remote.host, remote.port, remote.key, session_timeout_sec=round(seconds)),
        EvaluatorConfig(number=1, repeat=REPEATS, min_repeat_ms=0, enable_cpu_cache_flush=True),
        f_run_evaluator=evaluate_remotely,
    )


def check_remote(remote: Remote) -> None:
    """Raise InputError unless the tracker responds and has a device with that key."""
    from tvm import rpc

    where = f"{remote.host}:{remote.port}"
    try:
        socket.create_connection((remote.host, remote.port), CONNECT_SECONDS).close()
        with _with_timeout():
            known = rpc.connect_tracker(remote.host, remote.port).summary()["server_info"]
        found = any(server["key"] == f"server:{remote.key}" for server in known)
    except (OSError, ValueError, RuntimeError, LookupError, TypeError) as error:  # any kind of server may be there
        reason = getattr(error, "strerror", None) or last_line(str(error))
        raise InputError(
            f"no tracker can be reached: {reason}",
            where=where,
            remedy="start one with `python -m tvm.exec.rpc_tracker`, and check the address",
        ) from None
    if not found:
        raise InputError(
            f"the tracker has no device with key '{remote.key}'",
            where=where,
            remedy="register one there: python -m tvm.exec.rpc_server --tracker HOST:PORT --key KEY",
        )


@contextmanager
def _with_timeout() -> Iterator[None]:
    """Limit the time for connections within the context; TVM itself waits for a silent server forever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(CONNECT_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def evaluate_remotely(session: Any, module: Any, device: Any, config: Any, arguments: Sequence[Any]) -> list[float]:
    """Return the wall time of each call in seconds, on one thread of the other machine."""
    from tvm.s_tir.meta_schedule.runner.utils import run_evaluator_common

    session.get_function("runtime.config_threadpool")(1, THREADS)
    costs: list[float] = run_evaluator_common(module, device, config, arguments)
    return costs
