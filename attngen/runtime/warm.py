"""What the first launch of a process waits for and that needs no kernel, done beside the compiler.

Triton builds two small C files and hashes its whole library before it compiles anything: half a
second that keeps no Python busy. When something has to be compiled on a machine with a GPU, a
thread does that while the passes run. Whatever goes wrong in it happens again, and is reported, in
the launch.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from typing import Any

from attngen.runtime.settings import INTERPRET, gpu_present

_LOCK = threading.Lock()
_threads: list[threading.Thread] = []  # none, or the one that was started


def start() -> None:
    """Start the thread, once a process: not where Triton is there already, or interprets."""
    with _LOCK:
        if _threads or "triton" in sys.modules or INTERPRET in os.environ or not gpu_present():
            return
        _threads.append(threading.Thread(target=_prepare, name="attngen-warm", daemon=True))
        _threads[0].start()


def finish() -> None:
    """Wait until it has ended: two threads would do the same work twice."""
    for thread in _threads:
        thread.join()


def _prepare() -> None:
    with contextlib.suppress(Exception):  # these parts of Triton are not promised to stay
        import triton.compiler  # noqa: PLC0415 - `import attngen` stays light
        from triton.runtime.cache import triton_key  # noqa: PLC0415

        active: Any = triton.runtime.driver.active  # untyped in its library
        target = active.get_current_target()
        triton.compiler.make_backend(target).hash()
        triton_key()
