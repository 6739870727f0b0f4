"""One command's conversation with the daemon: its frames obeyed, stdin and signals passed on.

Imported by `aruntime.cli.client` once the daemon has been told what to do. The same rule holds
here: C modules only.
"""

import _socket
import posix
import sys

from aruntime import wire
from aruntime.cli.client import FAILED, fail, terminal_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    import select
    import signal as _signal
    from subprocess import Popen
    from termios import _AttrReturn
else:
    import _signal

RECEIVE_BYTES = 256 << 10
READER_GONE_MS = 200
"""How long a command may still say that it has ended once nobody reads our output any more."""
LOOK_MS = 1000
"""A signal that comes in the instant before we wait is not lost: its turn comes after this time."""
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

    def run(self, size: tuple[int, int], *, heard: bool = True) -> int:
        """Obey the daemon until it says exit; returns the exit code.

        Args:
            size: of the terminal, as the hello told it.
            heard: False if the daemon hung up before it had the whole hello.
        """
        decoder = wire.Decoder()
        if not heard:
            return self.last_words(decoder)
        if size != (0, 0):
            self.follow_size(size)
        try:
            while True:
                if (self.stdout_used or self.credits) and not self.wait():
                    continue
                try:
                    received = self.sock.recv(RECEIVE_BYTES)
                except BlockingIOError:
                    continue  # nothing within LOOK_MS
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

    def follow_size(self, told: tuple[int, int]) -> None:
        """Tell the daemon of every change of the terminal's size, from what it was told on."""
        _signal.signal(_signal.SIGWINCH, self.on_signal)
        if terminal_size() != told:
            self.on_signal(_signal.SIGWINCH, None)

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
        ready = dict(self.poller.poll(LOOK_MS if self.patience is None else self.patience))
        if not ready and self.patience is not None:
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
        """Handle these signals, except those that our parent had us ignore (nohup).

        The interpreter runs a handler between two byte codes only: one that came after the last of
        these and before the system call of a receive would wait with it, so that has a time limit.
        """
        for signum in signals:
            if _signal.getsignal(signum) is not _signal.SIG_IGN:
                _signal.signal(signum, self.on_signal)
        seconds = (LOOK_MS // 1000).to_bytes(8, sys.byteorder)
        self.sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVTIMEO, seconds + bytes(8))

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
