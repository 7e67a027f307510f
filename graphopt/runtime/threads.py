"""The number of threads that kernels run on, and their placement.

TVM keeps one pool of workers per thread that calls kernels. It is created in that thread's first run on more than one
thread, contains a worker for each CPU that the process may use (a run wakes as many as its session has threads, minus
the caller, which takes part), and ends with that thread. Kernels of sessions with one thread run in the caller, and no
pool is created.
"""

from __future__ import annotations

import ctypes
import os
import threading

import tvm_ffi

from graphopt.errors import InputError
from graphopt.hardware import processor as cpu

_SHARE_ALL_CPUS = -3  # TVM's mode that pins no thread to a single CPU
_SET_MAX_CONCURRENCY = (
    "_ZN3tvm7runtime9threading17SetMaxConcurrencyEi"  # of the calling thread; exported, not registered
)
_SPIN = "TVM_THREAD_POOL_SPIN_COUNT"
_YIELDS = "5000"
_pool = threading.local()


def choose(asked: int | None) -> int:
    """Return the number of threads for a session: `asked`, limited to the CPUs that this process may use.

    None takes the environment variable TVM_NUM_THREADS, or else the number of physical cores. Raises InputError for
    anything but a whole number of at least 1.
    """
    if asked is None:
        text = os.environ.get("TVM_NUM_THREADS", "")
        asked = int(text) if text.isdigit() and int(text) > 0 else cpu.current().cores
    elif isinstance(asked, bool) or not isinstance(asked, int) or asked < 1:
        raise InputError(f"threads must be a whole number of at least 1, not {asked!r}")
    return min(asked, len(cpu.allowed()))


def use(count: int) -> None:
    """Run the kernels that the calling thread calls from now on with `count` threads, including itself.

    Every thread may run on every CPU that this process may use. By default, TVM would pin the caller to the first.
    """
    if getattr(_pool, "threads", None) != count:
        if count > 1 or not _use_no_pool():
            # Idle workers wait for the next kernel by yielding repeatedly before they sleep. TVM's default of 300,000
            # times takes a
            # quarter of a second of CPU time after every run; this takes a few milliseconds.
            os.environ.setdefault(_SPIN, _YIELDS)
            cpus = [str(index) for index in cpu.allowed()]
            tvm_ffi.get_global_func("runtime.config_threadpool")(_SHARE_ALL_CPUS, count, cpus)
        _pool.threads = count


def _use_no_pool() -> bool:
    """Run parallel loops in the calling thread; return False if the runtime library does not support that."""
    try:
        set_max_concurrency = ctypes.CDLL(None)[_SET_MAX_CONCURRENCY]
    except AttributeError:
        return False
    set_max_concurrency(1)
    return True
