"""The thin client behind `aruntime`: ships argv to the daemon and does what its frames say.

The warm daemon parses the command line and runs the command; this module opens the socket, sends
the hello of `aruntime.wire`, and pumps. It starts in the time of the interpreter itself, so it
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
    import select
    import signal as _signal
    from subprocess import Popen
    from termios import _AttrReturn
else:
    import _signal

DEFAULT_RUN_DIR = b"/run/aruntime"
SOCKET_NAME = b"/aruntime.sock"
READERS_SOCKET_NAME = b"/tenants.sock"
"""Beside it, for those who may only look (aruntimed --tenant-reader)."""
FAILED = 125
"""Exit code when aruntime itself failed (docker's)."""
RECEIVE_BYTES = 256 << 10
READER_GONE_MS = 200
"""How long a command may still say that it has ended once nobody reads our output any more."""
FORWARDED = (
    _signal.SIGHUP,
    _signal.SIGINT,
    _signal.SIGQUIT,
    _signal.SIGUSR1,
    _signal.SIGUSR2,
    _signal.SIGALRM,
    _signal.SIGTERM,
)
FATAL_IN_RAW_MODE = (_signal.SIGHUP, _signal.SIGINT, _signal.SIGQUIT, _signal.SIGTERM)
GONE = "the daemon went away before the command had finished; see the daemon's log"


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


def hello(argv: list[str]) -> bytes:
    """The first message: who asks for what, from where."""
    try:
        cwd = posix.getcwdb()
    except OSError:
        cwd = b""
    terminals = b"%d%d%d" % (posix.isatty(0), posix.isatty(1), posix.isatty(2))
    words = [word.encode(errors="surrogateescape") for word in argv]
    return wire.encode_hello(
        __version__.encode(), cwd, terminals, terminal_size(), words, posix.environ
    )


class Client:
    """One command: it owns the socket, the terminal's saved attributes and signals not yet sent."""

    def __init__(self, sock: _socket.socket) -> None:
        self.sock = sock
        self.poller: select.poll | None = None
        self.credits = 0
        self.stdin_open = True
        self.stdout_used = False
        self.stdout_watched = False
        self.patience: int | None = None
        self.forwarding = False
        self.signals: list[int] = []
        self.sending = False
        self.saved_terminal: _AttrReturn | None = None
        self.copy: Popen[bytes] | None = None

    def run(self, argv: list[str]) -> int:
        """Send the hello and obey the daemon until it says exit; returns the exit code."""
        if terminal_size() != (0, 0):
            _signal.signal(_signal.SIGWINCH, self.on_signal)
        decoder = wire.Decoder()
        try:
            self.send(hello(argv))
            while True:
                if (self.stdout_used or self.credits) and not self.wait():
                    continue
                received = self.sock.recv(RECEIVE_BYTES)
                if not received:
                    return fail(GONE)
                decoder.feed(received)
                while (frame := decoder.next_frame()) is not None:
                    if frame[0] == wire.EXIT:
                        return int(frame[1])
                    self.obey(*frame)
        except (BrokenPipeError, ConnectionResetError):
            return self.last_words(decoder)
        finally:
            self.restore_terminal()

    def wait(self) -> bool:
        """Wait for the daemon, stdin, and whoever reads our stdout; True if the daemon spoke.

        Commands that only print something short never come here.
        """
        import select

        if self.poller is None:
            self.poller = select.poll()
            self.poller.register(self.sock.fileno(), select.POLLIN)
        if self.stdout_used and not self.stdout_watched:
            self.stdout_watched = True
            self.poller.register(1, 0)  # POLLERR and POLLHUP come unasked
        if self.stdin_open and self.credits:
            self.poller.register(0, select.POLLIN)
        ready = dict(self.poller.poll(self.patience))
        if not ready:
            self.die_by(_signal.SIGPIPE)
        if 1 in ready:
            self.poller.unregister(1)
            self.patience = READER_GONE_MS if ready[1] & select.POLLERR else None
        if 0 in ready:
            self.poller.unregister(0)
            self.send_stdin()
        return self.sock.fileno() in ready

    def last_words(self, decoder: wire.Decoder) -> int:
        """The daemon closed while we were sending: print what it had said before that."""
        try:
            while received := self.sock.recv(RECEIVE_BYTES):
                decoder.feed(received)
        except OSError:
            pass
        while (frame := decoder.next_frame()) is not None:
            if frame[0] == wire.EXIT:
                return int(frame[1])
            if frame[0] in (wire.STDOUT, wire.STDERR):
                self.obey(*frame)
        return fail(GONE)

    def obey(self, kind: bytes, payload: bytes) -> None:
        """Do what one frame of the daemon says."""
        if kind == wire.STDOUT:
            self.write(1, payload)
        elif kind == wire.STDERR:
            self.write(2, payload)
        elif kind == wire.SEND_STDIN:
            self.credits += 1
        elif kind == wire.FORWARD_SIGNALS:
            self.forwarding = True
            self.catch(FORWARDED)
        elif kind == wire.RAW_MODE:
            if payload == b"1":
                self.set_raw_mode()
            else:
                self.restore_terminal()
        elif kind == wire.OPEN:
            self.open_for_daemon(*payload.split(b"\0", 2))
        elif kind in (wire.REPLACE, wire.CREDENTIAL):
            from aruntime.cli import errands

            self.send(errands.run(kind, payload))
        elif kind == wire.COPY:
            from aruntime.cli import copying

            self.copy, fd = copying.begin(*payload.split(b"\0", 2))
            self.send_descriptor(fd)
        elif kind == wire.COPY_END and self.copy is not None:
            self.send(wire.frame(wire.COPIED, b"%d" % (self.copy.wait() % 256)))

    def send(self, frames: bytes) -> None:
        """Send whole frames; signals that arrive meanwhile are sent after them."""
        self.sending = True
        self.sock.sendall(frames)
        self.sending = False
        self.send_signals()

    def write(self, fd: int, payload: bytes) -> None:
        """Write all of it, also to a descriptor that somebody made non-blocking.

        A reader that has gone kills us by SIGPIPE, as it does every other program.
        """
        self.stdout_used = self.stdout_used or fd == 1
        rest = memoryview(payload)
        while rest:
            try:
                rest = rest[posix.write(fd, rest) :]
            except BlockingIOError:
                import select

                writable = select.poll()
                writable.register(fd, select.POLLOUT)
                writable.poll()
            except BrokenPipeError:
                self.die_by(_signal.SIGPIPE)
            except OSError as error:
                self.restore_terminal()
                if fd == 2:
                    posix._exit(FAILED)
                posix._exit(fail(f"cannot write to standard output: {error.strerror}"))

    def send_stdin(self) -> None:
        """Spend one credit on a chunk of stdin; end of file and errors both end it."""
        try:
            chunk = posix.read(0, wire.STDIN_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        self.credits -= 1
        self.stdin_open = bool(chunk)
        self.send(wire.frame(wire.STDIN, chunk) if chunk else wire.frame(wire.STDIN_EOF))

    def open_for_daemon(self, flags: bytes, mode: bytes, path: bytes) -> None:
        """Open a file at our own rights and pass the descriptor, or the errno."""
        try:
            fd = posix.open(path, int(flags), int(mode))
        except OSError as error:
            self.send(wire.frame(wire.OPENED, b"%d" % (error.errno or 0)))
            return
        self.send_descriptor(fd)

    def send_descriptor(self, fd: int) -> None:
        """Pass a descriptor and close our own."""
        rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, fd.to_bytes(4, sys.byteorder))]
        self.sending = True
        self.sock.sendmsg([wire.frame(wire.OPENED)], rights)
        self.sending = False
        posix.close(fd)
        self.send_signals()

    def catch(self, signals: tuple[int, ...]) -> None:
        """Handle these signals, except those that our parent had us ignore (nohup)."""
        for signum in signals:
            if _signal.getsignal(signum) is not _signal.SIG_IGN:
                _signal.signal(signum, self.on_signal)

    def on_signal(self, signum: int, _frame: object) -> None:
        """Runs between two byte codes, also while a write to stdout blocks."""
        if signum != _signal.SIGWINCH and not self.forwarding:
            self.die_by(signum)
        self.signals.append(signum)
        if not self.sending:
            self.send_signals()

    def send_signals(self) -> None:
        """Send what on_signal has collected; a dead socket is the main loop's to notice."""
        while self.signals and not self.sending:
            signum = self.signals.pop(0)
            self.sending = True
            try:
                if signum == _signal.SIGWINCH:
                    self.sock.sendall(wire.frame(wire.RESIZE, b"%d %d" % terminal_size()))
                else:
                    self.sock.sendall(wire.frame(wire.SIGNAL, b"%d" % signum))
            except OSError:
                pass
            self.sending = False

    def set_raw_mode(self) -> None:
        """cfmakeraw(3) on the terminal at stdin; nothing if stdin is none."""
        if self.saved_terminal is not None or not posix.isatty(0):
            return
        from aruntime.cli import rawmode

        self.catch(FATAL_IN_RAW_MODE)
        self.saved_terminal = rawmode.enter(0)

    def restore_terminal(self) -> None:
        """Put the terminal back as it was; harmless when it was never changed."""
        if self.saved_terminal is None:
            return
        import termios

        attributes, self.saved_terminal = self.saved_terminal, None
        try:
            termios.tcsetattr(0, termios.TCSADRAIN, attributes)
        except termios.error:
            pass  # the terminal has hung up

    def die_by(self, signum: int) -> None:
        """End as the signal's default action does, with the terminal restored."""
        self.restore_terminal()
        _signal.signal(signum, _signal.SIG_DFL)
        posix.kill(posix.getpid(), signum)


def connect(path: bytes) -> _socket.socket:
    """A connected socket, never at descriptor 0, 1 or 2 (they may have been closed)."""
    reserved = posix.open("/dev/null", posix.O_RDWR)
    while reserved < 3:
        reserved = posix.dup(reserved)
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    posix.close(reserved)
    sock.connect(path)
    return sock


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
    return Client(sock).run(argv)


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
