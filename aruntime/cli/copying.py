"""The caller's end of ``cp``: takes or places files of the host, at the caller's rights.

The client starts this file as a program of its own (``python -IS …/copying.py PACKAGES OPERATION
FLAGS FD PATH``): FD is one end of a pipe, the daemon has the other. Paths mean what they
mean to the caller, who may not be root. What comes from a container is not trusted: without ``-a``
it becomes the caller's, and no device, setuid or setgid file is made of it.

The exit code is 0, or 125 with one line on standard error, or 125 without a word when the other end
broke off: it has said why. Imported when it is asked for.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])

import subprocess

from aruntime.errors import AruntimeError, os_error_text
from aruntime.images import endpoints, packing, placing
from aruntime.images.compression import Input

TAKE, PLACE = "take", "place"
FOLLOW, OWNERS = "L", "a"
"""Flags: a link at the path stands for what it leads to; owners are copied."""
PIPE_FD = 3
FAILED = 125


def begin(operation: bytes, flags: bytes, path: bytes) -> tuple[subprocess.Popen[bytes], int]:
    """Start the program; returns it and the daemon's end of the pipe, the caller's to close."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    own, other = (writing, reading) if operation == TAKE.encode() else (reading, writing)
    packages = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    command = [sys.executable, "-IS", os.path.abspath(__file__), packages]
    try:
        process = subprocess.Popen(
            [*map(os.fsencode, command), operation, flags, b"%d" % own, path],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=(own,),
        )
    finally:
        os.close(own)
    return process, other


def main(operation: str, flags: str, fd: int, path: bytes) -> int:
    """Take or place; returns the exit code."""
    os.umask(0)
    try:
        if operation == TAKE:
            take(path, fd, FOLLOW in flags)
        else:
            place(path, fd, OWNERS in flags)
    except (BrokenPipeError, placing.Interrupted):
        return FAILED
    except AruntimeError as error:
        return complain(error.message)
    except OSError as error:
        return complain(os_error_text(error))
    return 0


def take(path: bytes, fd: int, follow: bool) -> None:
    """Write what is at a path to a pipe."""
    writer = packing.Writer(fd)
    packer = packing.Packer(writer.write)
    endpoints.take(endpoints.Place(), path, os.getcwdb(), follow, packer)
    writer.flush()


def place(path: bytes, fd: int, keep_owners: bool) -> None:
    """Put what comes out of a pipe at a path."""
    owner = None if keep_owners else (os.geteuid(), os.getegid())
    rules = placing.Rules(owner, adjusts=keep_owners, trusted=keep_owners)
    placing.place_archive(endpoints.Place(), path, Input(fd).read, rules, whole=False)


def complain(message: str) -> int:
    """Print an error line; what it quotes cannot speak to the terminal."""
    shown = "".join(c if c.isprintable() else "?" for c in message)
    sys.stderr.write(f"aruntime: {shown}\n")
    return FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[2], sys.argv[3], int(sys.argv[4]), os.fsencode(sys.argv[5])))
