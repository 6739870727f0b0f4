"""How the C library's allocator keeps memory: mallopt(3)."""

from __future__ import annotations

from aruntime.kernel import libc

M_ARENA_MAX = -8
"""/usr/include/malloc.h of glibc."""


def use_one_arena() -> bool:
    """Let all threads allocate from one arena; call it before there is a second thread.

    By default each thread gets one of its own, and what is freed in one cannot be used by
    another. The interpreter lock orders nearly all of a Python program's allocations anyway.

    Returns:
        Whether the C library knows how (glibc's does, musl's has no arenas).
    """
    try:
        mallopt = libc.function("mallopt", libc.cint, libc.cint)
    except AttributeError:
        return False
    return bool(mallopt(M_ARENA_MAX, 1))
