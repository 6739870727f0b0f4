"""How the shim starts: out of a sealed copy of the interpreter, with nothing else of the host.

Two stages in one process. The first, started by the daemon (:func:`argv`) or as
``aruntime-shim``, copies the interpreter into a memfd, seals it and executes it; the second runs
the shim. So whatever a container does with /proc/PID/exe of a child that has not executed its
program yet, or with ``/proc/self/exe`` as its command, it reaches a copy in memory that nobody
can write to (CVE-2019-5736), never the host's interpreter.

Both run with ``-I -S``: no site-packages, no environment, no current directory on the path. The
package's own directory is put there by hand, which is why this file is executed by its path.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

MEMFD_NAME = "aruntime-shim"
MFD_EXEC = 0x0010
"""include/uapi/linux/memfd.h, Linux 6.3: says that the file is meant to be executed."""
SEALED_MARK = "--sealed"
INTERPRETER_FLAGS = ("-I", "-S", "-X", "utf8")

USAGE = "usage: aruntime-shim --run-dir DIR [--stay]\n"
RELATIVE_LIBRARY = (
    "this interpreter finds libpython relative to itself ($ORIGIN), which a sealed copy of it"
    " cannot; install a Python built with an absolute library path, or a static one"
)


def argv(run_dir: str, *, stay: bool = False) -> list[str]:
    """Return the command line that starts a shim for a run directory.

    Args:
        run_dir: where ``shim.sock`` appears.
        stay: do not exit when idle without a daemon (for a service manager).
    """
    words = [interpreter(), *INTERPRETER_FLAGS, os.path.abspath(__file__), "--run-dir", run_dir]
    return [*words, "--stay"] if stay else words


def interpreter() -> str:
    """Return the absolute path of the interpreter.

    It becomes argv[0] of the sealed copy, because that is how Python finds its standard library.

    Raises:
        RuntimeError: this interpreter does not know its own path.
    """
    if not os.path.isabs(sys.executable):
        raise RuntimeError("sys.executable is not absolute: start Python by its full path")
    return sys.executable


def main(words: Sequence[str] | None = None) -> int:
    """Start or become the shim; the entry of ``aruntime-shim``.

    Returns the exit code; does not return from the first stage unless something is wrong.
    """
    arguments = list(sys.argv[1:] if words is None else words)
    try:
        run_dir, stay, sealed = parse(arguments)
    except ValueError as error:
        return fail(f"{error}; {USAGE.strip()}", code=2)
    try:
        if not sealed:
            execute_sealed(argv(run_dir, stay=stay))
        return run(run_dir, stay=stay)
    except (OSError, RuntimeError) as error:
        return fail(str(error))


def parse(arguments: Sequence[str]) -> tuple[str, bool, bool]:
    """Return run directory, ``--stay`` and whether this is the second stage.

    Raises:
        ValueError: what is wrong, in words.
    """
    run_dir, stay, sealed = "", False, False
    rest = iter(arguments)
    for word in rest:
        if word == "--stay":
            stay = True
        elif word == SEALED_MARK:
            sealed = True
        elif word == "--run-dir":
            run_dir = next(rest, "")
        elif word.startswith("--run-dir="):
            run_dir = word.partition("=")[2]
        else:
            raise ValueError(f"unknown argument {word!r}")
    if not run_dir:
        raise ValueError("--run-dir is missing")
    return os.path.abspath(run_dir), stay, sealed


def fail(text: str, *, code: int = 1) -> int:
    """Say what is wrong in one line and return the exit code."""
    os.write(2, f"aruntime-shim: {text}\n".encode(errors="surrogateescape"))
    return code


def execute_sealed(command: list[str]) -> NoReturn:
    """Execute the command from a sealed copy of its interpreter.

    Raises:
        OSError: no memory for it, or the copy cannot be executed.
        RuntimeError: the copy would not find its own library.
    """
    path = os.path.realpath(command[0])
    with open(path, "rb") as file:
        image = file.read()
    if depends_on_origin(image):
        raise RuntimeError(RELATIVE_LIBRARY)
    fd = sealed_copy(image)
    os.execve(fd, [*command, SEALED_MARK], {"PATH": os.environ.get("PATH", os.defpath)})


def depends_on_origin(image: bytes) -> bool:
    """Whether an interpreter loads a libpython that it finds by a path relative to itself."""
    if b"$ORIGIN" not in image and b"${ORIGIN}" not in image:
        return False
    with open("/proc/self/maps", "rb") as maps:
        return b"/libpython" in maps.read()


def sealed_copy(image: bytes) -> int:
    """Return a descriptor of a sealed memfd with this content; the caller owns it.

    Raises:
        OSError: as memfd_create(2), write(2).
    """
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        fd = os.memfd_create(MEMFD_NAME, flags | MFD_EXEC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        fd = os.memfd_create(MEMFD_NAME, flags)  # before Linux 6.3
    rest = memoryview(image)
    while rest:
        rest = rest[os.write(fd, rest) :]
    os.fchmod(fd, 0o500)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, ALL_SEALS)
    return fd


ALL_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def check_sealed() -> None:
    """Make sure that this process runs from a sealed memfd, and so will every child.

    Raises:
        RuntimeError: it does not.
    """
    image = os.readlink("/proc/self/exe")
    if not image.startswith(f"/memfd:{MEMFD_NAME}"):
        raise RuntimeError(f"the shim runs from {image}, not from a sealed memfd")
    fd = os.open("/proc/self/exe", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if fcntl.fcntl(fd, fcntl.F_GET_SEALS) & ALL_SEALS != ALL_SEALS:
            raise RuntimeError("the shim's memfd is not sealed")
    finally:
        os.close(fd)
    try:
        os.close(os.open("/proc/self/exe", os.O_WRONLY | os.O_CLOEXEC))
    except OSError:
        return
    raise RuntimeError("the shim's memfd can be opened for writing")


def run(run_dir: str, *, stay: bool) -> int:
    """Be the shim until it is told to end; returns the exit code.

    Raises:
        OSError: the run directory cannot be used, or another shim serves it.
        RuntimeError: this process does not run from a sealed memfd.
    """
    check_sealed()
    from aruntime.shim import serve  # the second stage alone needs the rest of the package

    serve.run(run_dir, stay=stay)
    return 0


if __name__ == "__main__":
    # Last: nothing beside the package may stand in for a module of the standard library.
    sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    sys.exit(main())
