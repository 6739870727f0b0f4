"""The allocator's setting, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

THREADS = """
import ctypes, os, sys, threading
from aruntime.kernel import allocator
assert allocator.use_one_arena()
def work(): ctypes.CDLL(None).malloc(4096)
threads = [threading.Thread(target=work) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
fd = os.memfd_create("info")
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
libc.malloc_info.argtypes = (ctypes.c_int, ctypes.c_void_p)
libc.fflush.argtypes = (ctypes.c_void_p,)
stream = libc.fdopen(fd, b"w")
libc.malloc_info(0, stream)
libc.fflush(stream)
sys.stdout.write(str(os.pread(fd, 1 << 20, 0).count(b"<heap nr=")))
"""


def test_threads_share_one_arena() -> None:
    """glibc's own report shows one heap however many threads have allocated."""
    done = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "1"
