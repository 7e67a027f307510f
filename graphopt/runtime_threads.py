"""How many threads kernels run on, and where. TVM keeps one pool of workers for each thread that calls kernels."""

from __future__ import annotations

import os
import threading

import tvm_ffi

from graphopt import cpu
from graphopt.errors import InputError

_SHARE_ALL_CPUS = -3  # TVM's mode in which no thread is pinned to one CPU
_pool = threading.local()


def choose(asked: int | None) -> int:
    """The number of threads for a session: what was asked for, and never more than the CPUs this process may use.

    None takes the environment's TVM_NUM_THREADS, and without it one for each physical core. Raises InputError for
    what is not a whole number of at least 1.
    """
    if asked is None:
        text = os.environ.get("TVM_NUM_THREADS", "")
        asked = int(text) if text.isdigit() and int(text) > 0 else cpu.current().cores
    elif isinstance(asked, bool) or not isinstance(asked, int) or asked < 1:
        raise InputError(f"threads must be a whole number of at least 1, not {asked!r}")
    return min(asked, len(cpu.allowed()))


def use(count: int) -> None:
    """Let the kernels that the calling thread runs from now on use `count` threads, itself among them.

    Every thread may run on every CPU that this process may use. TVM's default would pin the caller to the first.
    """
    if getattr(_pool, "threads", None) != count:
        cpus = [str(index) for index in cpu.allowed()]
        tvm_ffi.get_global_func("runtime.config_threadpool")(_SHARE_ALL_CPUS, count, cpus)
        _pool.threads = count
