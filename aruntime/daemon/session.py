"""One client of the command socket, as a command sees it.

:class:`Session` owns the connection: it sends frames, never half of one, and its receiving
task feeds stdin, signals, window sizes and opened files to whoever asked for them. A client
that goes away, or that breaks the protocol of :mod:`aruntime.wire`, cancels the command through
``Session.scope``. Which command runs is :mod:`aruntime.daemon.dispatch`'s.
"""

from __future__ import annotations

import array
import collections
import errno
import os
import socket
from collections.abc import Callable

import trio

from aruntime import wire
from aruntime.daemon.hello import Hello, Peer, numbers

RECEIVE_BYTES = 64 << 10
SEND_BYTES = 64 << 10
SIGNALS_PENDING = 64
"""Signals kept for a command that is slow to take them; more are merged, as the kernel does."""
FDS_PENDING = 4
STREAMS = (wire.STDOUT, wire.STDERR)
"""Frames that come in any number: others get their turn between two of them."""


class _Opening:
    """An `open` under way: the answer, and whether somebody still waits for it."""

    def __init__(self) -> None:
        self.answered = trio.Event()
        self.fd = -1
        self.errno = 0
        self.abandoned = False


class _Errand:
    """Something the client does for the daemon: the frame that answers, and what it said."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.answered = trio.Event()
        self.payload: bytes | None = None


class Session:
    """One command of one client.

    Attributes:
        argv: the command and its arguments, without the program's name.
        cwd: the client's working directory; empty when it had been deleted.
        env: the client's environment.
        uid, gid, pid: of the client, as the kernel says.
        stdin_tty, stdout_tty, stderr_tty: whether that stream is a terminal.
        rows, cols: of the terminal, kept up to date; zeros without one.
        resizes: receives the window size whenever it changes (only the latest is kept).
        scope: cancelled when the client has gone. A command that must finish something
            regardless shields that part.
        settled: set when the command has ended or became open-ended.
    """

    def __init__(self, connection: trio.socket.SocketType, peer: Peer, hello: Hello) -> None:
        self.argv = hello.argv
        self.cwd = hello.cwd
        self.env = hello.env
        self.uid, self.gid, self.pid = peer.uid, peer.gid, peer.pid
        self.stdin_tty, self.stdout_tty, self.stderr_tty = hello.terminals
        self.rows, self.cols = hello.rows, hello.columns
        self.scope = trio.CancelScope()
        self.settled = trio.Event()
        self._connection = connection
        self._send_lock = trio.Lock()
        self._unsent = memoryview(b"")
        self._gone = False
        self._openings: collections.deque[_Opening] = collections.deque()
        self._errands: collections.deque[_Errand] = collections.deque()
        self._fds: collections.deque[int] = collections.deque()
        self._resized, self.resizes = trio.open_memory_channel[tuple[int, int]](1)
        self._signalled, self._signals = trio.open_memory_channel[int](SIGNALS_PENDING)
        self._signals_wanted = False
        self._typed, self._chunks = trio.open_memory_channel[bytes](wire.STDIN_CREDITS)
        self._stdin_out, self._stdin = trio.open_memory_channel[bytes](0)
        self._stdin_wanted = trio.Event()

    # What commands use.

    @property
    def open_ended(self) -> bool:
        """Whether the command only waits or streams from now on.

        A command sets it (asking for stdin or signals does too), and a daemon that stops does
        not wait for it. It cannot be taken back.
        """
        return self.settled.is_set()

    @open_ended.setter
    def open_ended(self, value: bool) -> None:
        if value:
            self.settled.set()

    async def out(self, text: str | bytes) -> None:
        """Write to the client's standard output; waits while the client is slow.

        Cancelled, it may or may not have delivered; the stream stays whole. Output to a client
        that has gone is dropped (its command is being cancelled anyway).
        """
        await self._send_stream(wire.STDOUT, text)

    async def err(self, text: str | bytes) -> None:
        """Write to the client's standard error, as :meth:`out`."""
        await self._send_stream(wire.STDERR, text)

    async def stdin(self) -> trio.MemoryReceiveChannel[bytes]:
        """Have the client send its standard input; the channel ends at end of file.

        The client reads only as fast as the channel is read. Always the same channel.
        """
        self.open_ended = True
        self._stdin_wanted.set()
        await trio.lowlevel.checkpoint()
        return self._stdin

    async def forward_signals(self) -> trio.MemoryReceiveChannel[int]:
        """Have the client pass on its signals (INT, TERM, HUP, QUIT, USR1, USR2, ALRM)."""
        self.open_ended = True
        if not self._signals_wanted:
            self._signals_wanted = True
            await self._send(wire.FORWARD_SIGNALS)
        return self._signals

    async def raw_mode(self, on: bool) -> None:
        """Switch the client's terminal; the client itself restores it when it ends."""
        await self._send(wire.RAW_MODE, b"1" if on else b"0")

    async def open(self, path: str, flags: int, mode: int = 0o666) -> int:
        """Have the client open a file at its own rights, relative to its working directory.

        Returns a descriptor that the caller owns (close-on-exec). Cancelled, the answer is
        thrown away when it comes.

        Raises:
            OSError: as the client's open(2) failed, with the path.
        """
        request = b"%d\0%d\0%s" % (flags | os.O_CLOEXEC | os.O_NOCTTY, mode, os.fsencode(path))
        return await self._open(wire.OPEN, request, path)

    async def copy(self, operation: str, flags: str, path: str) -> int:
        """Have the client take or place files at its own rights (:mod:`aruntime.cli.copying`).

        Returns its end of a pipe, the caller's to close before :meth:`copied` is awaited.

        Raises:
            OSError: the client has gone.
        """
        request = b"%s\0%s\0%s" % (operation.encode(), flags.encode(), os.fsencode(path))
        return await self._open(wire.COPY, request, path)

    async def copied(self) -> int:
        """Wait for the end of a copy; its exit code. If it failed, the client has said why."""
        return numbers(await self._errand(wire.COPY_END, b"", wire.COPIED), 1)[0]

    async def _open(self, kind: bytes, request: bytes, path: str) -> int:
        opening = _Opening()
        try:
            await self._send(kind, request, lambda: self._openings.append(opening))
            if self._gone:
                raise OSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET), path)
            await opening.answered.wait()
        except trio.Cancelled:
            opening.abandoned = True
            if opening.fd >= 0:
                os.close(opening.fd)
            raise
        if opening.fd < 0:
            raise OSError(opening.errno, os.strerror(opening.errno), path)
        return opening.fd

    async def replace_file(self, path: str, content: bytes) -> None:
        """Have the client replace a private file of its own, whole, at its own rights.

        Args:
            path: of the file; its directory is made if need be.
            content: less than a frame.

        Raises:
            OSError: as the client's system call failed.
        """
        request = os.fsencode(path) + b"\0" + content
        (number,) = numbers(await self._errand(wire.REPLACE, request, wire.REPLACED), 1)
        if number:
            raise OSError(number, os.strerror(number), path)

    async def credential(self, name: str, action: str, given: bytes) -> tuple[int, bytes]:
        """Have the client run docker-credential-NAME; returns its exit code and output.

        Cancelled, the program goes on at the client, and what it says is thrown away.

        Raises:
            OSError: the client has gone.
        """
        request = b"%s\0%s\0%s" % (os.fsencode(name), action.encode(), given)
        answer = await self._errand(wire.CREDENTIAL, request, wire.CREDENTIAL_ANSWER)
        code, _, output = answer.partition(b"\0")
        return numbers(code, 1)[0], output

    async def _errand(self, kind: bytes, request: bytes, answer: bytes) -> bytes:
        """Ask the client something that it answers with one frame."""
        errand = _Errand(answer)
        await self._send(kind, request, lambda: self._errands.append(errand))
        if not self._gone:
            await errand.answered.wait()
        if errand.payload is None:
            raise OSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        return errand.payload

    # What the server uses.

    async def exit(self, code: int) -> None:
        """Tell the client to exit; the last frame."""
        await self._send(wire.EXIT, b"%d" % code)

    async def receive(self, decoder: wire.Decoder) -> None:
        """Take frames until the client goes, breaks the protocol, or this is cancelled.

        Never waits for a command: stdin is limited by credits, the rest is merged or counted.
        """
        try:
            while True:
                while (frame := decoder.next_frame()) is not None:
                    self._take(*frame)
                received = await self._receive_some()
                if not received:
                    break
                decoder.feed(received)
        except OSError:
            pass  # reset: gone all the same
        finally:
            self._hang_up()

    async def pass_on_stdin(self) -> None:
        """Hand chunks to the command one by one and give the client a credit for each."""
        await self._stdin_wanted.wait()
        async with self._stdin_out:
            for _ in range(wire.STDIN_CREDITS):
                await self._send(wire.SEND_STDIN)
            async for chunk in self._chunks:
                try:
                    await self._stdin_out.send(chunk)
                except trio.BrokenResourceError:
                    return
                await self._send(wire.SEND_STDIN)

    def _hang_up(self) -> None:
        """Nothing can come any more: end the command and give back what it will not take."""
        self._gone = True
        self.scope.cancel()
        self._typed.close()
        for errand in self._errands:
            errand.answered.set()
        self._errands.clear()
        for opening in self._openings:
            opening.errno = errno.ECONNRESET
            opening.answered.set()
        self._openings.clear()
        while self._fds:
            os.close(self._fds.popleft())

    def _take(self, kind: bytes, payload: bytes) -> None:
        if kind == wire.STDIN:
            self._typed_in(payload)
        elif kind == wire.STDIN_EOF:
            self._typed.close()
        elif kind == wire.RESIZE:
            self._resize(payload)
        elif kind == wire.SIGNAL:
            self._signal(payload)
        elif kind == wire.OPENED:
            self._opened(payload)
        elif kind in (wire.REPLACED, wire.CREDENTIAL_ANSWER, wire.COPIED):
            self._answered(kind, payload)
        else:
            raise wire.ProtocolError(f"unknown frame {kind!r}")

    def _typed_in(self, payload: bytes) -> None:
        try:
            self._typed.send_nowait(payload)
        except trio.WouldBlock:
            raise wire.ProtocolError("more stdin than was asked for") from None
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise wire.ProtocolError("stdin after its end") from None

    def _resize(self, payload: bytes) -> None:
        rows, columns = numbers(payload, 2)
        self.rows, self.cols = rows, columns
        try:
            self.resizes.receive_nowait()
        except (trio.WouldBlock, trio.ClosedResourceError):
            pass
        try:
            self._resized.send_nowait((rows, columns))
        except trio.BrokenResourceError:
            pass  # the command has closed its end

    def _signal(self, payload: bytes) -> None:
        (signum,) = numbers(payload, 1)
        if not self._signals_wanted:
            raise wire.ProtocolError("a signal that was not asked for")
        try:
            self._signalled.send_nowait(signum)
        except (trio.WouldBlock, trio.BrokenResourceError):
            pass

    def _opened(self, payload: bytes) -> None:
        if not self._openings:
            raise wire.ProtocolError("an answer to no question")
        opening = self._openings.popleft()
        if payload:
            (opening.errno,) = numbers(payload, 1)
        elif not self._fds:
            raise wire.ProtocolError("an answer without its descriptor")
        elif opening.abandoned:
            os.close(self._fds.popleft())
        else:
            opening.fd = self._fds.popleft()
        opening.answered.set()

    def _answered(self, kind: bytes, payload: bytes) -> None:
        if not self._errands or self._errands[0].answer != kind:
            raise wire.ProtocolError("an answer to no question")
        errand = self._errands.popleft()
        errand.payload = payload
        errand.answered.set()

    async def _receive_some(self) -> bytes:
        received, ancillary, flags, _ = await self._connection.recvmsg(
            RECEIVE_BYTES, socket.CMSG_SPACE(FDS_PENDING * 4), socket.MSG_CMSG_CLOEXEC
        )
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array.array("i")
                fds.frombytes(content[: len(content) // fds.itemsize * fds.itemsize])
                self._fds.extend(fds)
        if len(self._fds) > FDS_PENDING or flags & socket.MSG_CTRUNC:
            raise wire.ProtocolError("too many descriptors")
        return received

    async def _send_stream(self, kind: bytes, text: str | bytes) -> None:
        payload = text.encode(errors="surrogateescape") if isinstance(text, str) else text
        for start in range(0, len(payload), SEND_BYTES):
            await self._send(kind, payload[start : start + SEND_BYTES])

    async def _send(
        self, kind: bytes, payload: bytes = b"", committed: Callable[[], None] | None = None
    ) -> None:
        """Send one frame. What a cancelled send leaves over goes out before the next frame.

        ``committed`` is called once the frame is certain to be sent, unless the client goes.
        """
        if kind not in STREAMS and not self._unsent and not self._send_lock.locked():
            if committed is not None:
                committed()
            self._send_at_once(wire.frame(kind, payload))
            if self._unsent:
                async with self._send_lock:
                    await self._flush()
            return
        async with self._send_lock:
            await self._flush()
            if committed is not None:
                committed()
            self._unsent = memoryview(wire.frame(kind, payload))
            await self._flush()

    def _send_at_once(self, frame: bytes) -> None:
        """Send what the client has room for, which costs no turn of the loop; keep the rest."""
        if not self._gone:
            self._unsent = memoryview(frame)
            try:
                self._unsent = self._unsent[os.write(self._connection.fileno(), frame) :]
            except BlockingIOError:
                pass
            except OSError:
                self._hang_up()

    async def _flush(self) -> None:
        try:
            while self._unsent and not self._gone:
                sent = await self._connection.send(self._unsent)
                self._unsent = self._unsent[sent:]
        except (OSError, trio.ClosedResourceError):
            self._hang_up()
        if self._gone:
            await trio.lowlevel.checkpoint()
