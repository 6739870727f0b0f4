"""The C library through ctypes: how every other module of this package makes its prototypes.

A prototype is made once, at import, with a result check that turns a failure into ``OSError``.
Calls that glibc 2.31 lacks go through syscall(2) by number; the numbers from 424 on are the same
on every architecture. Out of scope: any call Python's own ``os`` has, and any policy.
"""

from __future__ import annotations

import ctypes
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

CDLL = ctypes.CDLL(None, use_errno=True)
"""The C library of this process; calls give up the interpreter lock while they run."""
PYDLL = ctypes.PyDLL(None, use_errno=True)
"""The same, keeping the lock: for calls that return in a second process."""

long, ulong, cint, uint = ctypes.c_long, ctypes.c_ulong, ctypes.c_int, ctypes.c_uint
text, pointer = ctypes.c_char_p, ctypes.c_void_p


def check(result: int, name: str, path: str | bytes | int | None = None) -> int:
    """Return the result of a C call, or raise what errno says when it is negative.

    Args:
        result: what the call returned.
        name: the system call, which becomes a note of the exception.
        path: the file concerned, for ``OSError.filename``.

    Raises:
        OSError: the subclass that fits errno.
    """
    if result >= 0:
        return result
    number = ctypes.get_errno()
    if path is None:
        error = OSError(number, os.strerror(number))
    else:
        error = OSError(number, os.strerror(number), path)
    error.add_note(f"in {name}")
    raise error


def function(
    name: str, *argtypes: Any, restype: Any = ctypes.c_int, library: ctypes.CDLL = CDLL
) -> Callable[..., int]:
    """Return a function of the C library that returns a signed number and sets errno.

    It is a fresh object: nobody else's argument types are changed.
    """
    call = library[name]
    call.argtypes, call.restype = argtypes, restype
    return call


def syscall(number: int, *argtypes: Any, library: ctypes.CDLL = CDLL) -> Callable[..., int]:
    """Return a system call without its number: ``syscall(428, cint, text, uint)(fd, path, 0)``."""
    call = function("syscall", long, *argtypes, restype=long, library=library)

    def numbered(*arguments: Any) -> int:
        return call(number, *arguments)

    return numbered


def encoded(path: str | bytes | None) -> bytes | None:
    """Return a path as the kernel takes it; None stays a null pointer.

    Raises:
        ValueError: the path holds a NUL byte, which C would take for its end.
    """
    if path is None:
        return None
    content = os.fsencode(path)
    if b"\0" in content:
        raise ValueError(f"path {path!r} holds a NUL byte")
    return content
