"""What the client does for the daemon at its own rights, besides opening files.

A file of its own (docker's config.json) is replaced, and docker's credential helpers run, as the
user who called: the daemon must not do either. Only programs of that kind are run, whatever the
daemon says. Imported when it is asked for.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess

from aruntime import wire

PROGRAM = "docker-credential-"
NAME = re.compile(rb"[A-Za-z0-9][A-Za-z0-9_.-]*")
ACTIONS = (b"get", b"store", b"erase")
NOT_FOUND = 127
NOT_EXECUTABLE = 126


def run(kind: bytes, payload: bytes) -> bytes:
    """Do what a frame asks and return the frame that answers it."""
    if kind == wire.REPLACE:
        return wire.frame(wire.REPLACED, b"%d" % replace(*payload.split(b"\0", 1)))
    code, output = credential(*payload.split(b"\0", 2))
    return wire.frame(wire.CREDENTIAL_ANSWER, b"%d\0%s" % (code, output[: wire.MAX_PAYLOAD >> 1]))


def replace(path: bytes, content: bytes) -> int:
    """Replace a private file, or make it and its directory; returns 0 or the errno.

    Whoever dies meanwhile, the old one or the new one is there, whole.
    """
    path = os.path.realpath(path)  # a link stays one
    temporary = b"%s.%d.tmp" % (path, os.getpid())
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with open(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(fd)
        os.rename(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        return error.errno or 1
    return 0


def credential(name: bytes, action: bytes, given: bytes) -> tuple[int, bytes]:
    """Run a credential helper; returns its exit code and what it printed.

    The protocol is that of docker-credential-helpers: input on stdin, answer or complaint on
    stdout. What it says on stderr, and asks at the terminal, is between it and the user.
    """
    if not NAME.fullmatch(name) or action not in ACTIONS:
        return NOT_EXECUTABLE, b"not the name of a credential helper"
    program = PROGRAM + name.decode()
    try:
        done = subprocess.run(
            [program, action.decode()], input=given, stdout=subprocess.PIPE, check=False
        )
    except FileNotFoundError:
        return NOT_FOUND, f"{program} is not in your PATH".encode()
    except OSError as error:
        return NOT_EXECUTABLE, f"{program}: {(error.strerror or '').lower()}".encode()
    return done.returncode, done.stdout
