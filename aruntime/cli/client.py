"""The thin client behind `aruntime`: ships argv to the daemon and does what its frames say.

The warm daemon parses the command line and runs the command; this module opens the socket and
sends the hello of `aruntime.wire`. While the daemon begins with it, the rest of the client is
imported (`aruntime.cli.conversation`). It starts in the time of the interpreter itself, so it
imports C modules only (no socket, signal, os.path users, argparse, json, re, typing; see
docs/performance.md). What needs more, starting a daemon or printing help without one, is in
`aruntime.cli.autostart`, imported when no daemon answers.
"""

import _socket
import posix
import sys

from aruntime import __version__, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
else:
    import _signal

DEFAULT_RUN_DIR = b"/run/aruntime"
SOCKET_NAME = b"/aruntime.sock"
READERS_SOCKET_NAME = b"/tenants.sock"
"""Beside it, for those who may only look (aruntimed --tenant-reader)."""
FAILED = 125
"""Exit code when aruntime itself failed (docker's)."""


def fail(message: str, code: int = FAILED) -> int:
    """Print one error line and return the exit code."""
    posix.write(2, b"aruntime: " + message.encode(errors="surrogateescape") + b"\n")
    return code


def split_host(argv: list[str]) -> tuple[str, list[str]]:
    """Take ``--host`` out of the global options; the host (or ``""``) and the rest.

    The other global options are the daemon's to read. Raises ValueError, the error line.
    """
    host = ""
    kept: list[str] = []
    while argv and argv[0].startswith("-"):
        word, argv = argv[0], argv[1:]
        if word in ("-H", "--host"):
            if not argv:
                raise ValueError(f"flag needs an argument: {word}; see 'aruntime --help'")
            host, argv = argv[0], argv[1:]
        elif word.startswith("--host="):
            host = word[len("--host=") :]
        elif word.startswith("-H"):
            host = word[2:].removeprefix("=")
        else:
            kept.append(word)
    return host, kept + argv


def socket_path(host: str) -> tuple[bytes, bool]:
    """Where the daemon listens, and whether that is where one may be started.

    In this order: ``--host``, ARUNTIME_HOST, ARUNTIME_RUN_DIR, the default. Raises ValueError.
    """
    address = host.encode(errors="surrogateescape") or posix.environ.get(b"ARUNTIME_HOST", b"")
    if not address:
        return (posix.environ.get(b"ARUNTIME_RUN_DIR") or DEFAULT_RUN_DIR) + SOCKET_NAME, True
    if not address.startswith(b"unix:///"):
        shown = address.decode(errors="replace")
        raise ValueError(f"the host '{shown}' is not an address; write unix:///path/of/the.sock")
    return address[len(b"unix://") :], False


def terminal_size() -> tuple[int, int]:
    """Rows and columns of the first standard stream that is a terminal, else zeros."""
    for fd in (1, 0, 2):
        try:
            columns, rows = posix.get_terminal_size(fd)
        except OSError:
            continue
        return rows, columns
    return 0, 0


def hello(argv: list[str], size: tuple[int, int]) -> bytes:
    """The first message: who asks for what, from where."""
    try:
        cwd = posix.getcwdb()
    except OSError:
        cwd = b""
    terminals = b"%d%d%d" % (posix.isatty(0), posix.isatty(1), posix.isatty(2))
    words = [word.encode(errors="surrogateescape") for word in argv]
    return wire.encode_hello(__version__.encode(), cwd, terminals, size, words, posix.environ)


def connect(path: bytes) -> _socket.socket:
    """A connected socket, never at descriptor 0, 1 or 2 (they may have been closed)."""
    reserved = posix.open("/dev/null", posix.O_RDWR)
    while reserved < 3:
        reserved = posix.dup(reserved)
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    posix.close(reserved)
    sock.connect(path)
    return sock


def converse(sock: _socket.socket, argv: list[str]) -> int:
    """Have the daemon run a command; returns its exit code. The socket is used up."""
    size = terminal_size()
    try:
        sock.sendall(hello(argv, size))
        heard = True
    except (BrokenPipeError, ConnectionResetError):
        heard = False
    # Only now: the daemon is at work meanwhile.
    from aruntime.cli.conversation import Client

    return Client(sock).run(size, heard=heard)


def run(arguments: list[str]) -> int:
    """One invocation of `aruntime`; returns its exit code."""
    try:
        host, argv = split_host(arguments)
        path, default = socket_path(host)
    except ValueError as error:
        return fail(str(error))
    if argv[:1] == ["daemon"]:
        bring_in_site()
        from aruntime.daemon.main import main as aruntimed

        return aruntimed(argv[1:])
    if argv[:1] in (["--version"], ["-v"]):
        posix.write(1, f"aruntime version {__version__}\n".encode())
        return 0
    try:
        sock = connect(path)
    except PermissionError as error:
        try:
            sock = connect(path[: path.rfind(b"/")] + READERS_SOCKET_NAME)
        except OSError:
            from aruntime.cli import autostart

            return autostart.without_daemon(argv, path, error, default=default)
    except OSError as error:
        bring_in_site()
        from aruntime.cli import autostart

        return autostart.without_daemon(argv, path, error, default=default)
    return converse(sock, argv)


def bring_in_site() -> None:
    """Let what is imported from here on find site-packages (see `aruntime.cli.link`)."""
    if sys.flags.no_site:
        import site

        site.main()


def main() -> None:
    """Entry of the plain script; ends the process without the interpreter's clean-up."""
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    posix._exit(run(sys.argv[1:]))
