"""A session over a real socket pair: streams, stdin by credit, signals, sizes, opened files."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing

from aruntime import wire
from aruntime.daemon.hello import Hello, Peer, peer_of
from aruntime.daemon.session import Session

HELLO = Hello("1", "/", (False, True, False), 24, 80, ["ps"], {"TERM": "xterm"})


class Partner:
    """The client's end: sends frames and reads those of the daemon."""

    def __init__(self, sock: trio.socket.SocketType) -> None:
        self.sock = sock
        self.decoder = wire.Decoder()

    async def send(self, kind: bytes, payload: bytes = b"", fds: tuple[int, ...] = ()) -> None:
        """Send one frame, with descriptors."""
        rights = [
            (socket.SOL_SOCKET, socket.SCM_RIGHTS, b"".join(fd.to_bytes(4, "little") for fd in fds))
        ]
        await self.sock.sendmsg([wire.frame(kind, payload)], rights if fds else [])

    async def next(self) -> tuple[bytes, bytes]:
        """Receive one frame."""
        while (frame := self.decoder.next_frame()) is None:
            received = await self.sock.recv(65536)
            assert received, "the daemon hung up"
            self.decoder.feed(received)
        return frame


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[tuple[Session, Partner]]:
    """A session whose tasks run, and its partner; both sockets are closed afterwards."""
    ours, theirs = trio.socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        session = Session(ours, Peer(1, 2, 3), HELLO)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.receive, wire.Decoder())
            nursery.start_soon(session.pass_on_stdin)
            yield session, Partner(theirs)
            nursery.cancel_scope.cancel()


async def provoke(*frames: tuple[bytes, bytes], fds: tuple[int, ...] = ()) -> None:
    """Send frames, each with these descriptors, to a session and wait for what it raises."""
    async with connected() as (_, partner):
        for kind, payload in frames:
            await partner.send(kind, payload, fds)
        await trio.sleep_forever()


def protocol_error(group: BaseExceptionGroup[BaseException]) -> bool:
    """Whether the group is one ProtocolError, however nested."""
    return group.split(wire.ProtocolError)[1] is None


async def test_streams_keep_order_and_bytes() -> None:
    """Output and errors arrive in the order written; text is UTF-8, raw bytes stay raw."""
    async with connected() as (session, partner):
        await session.out("é\n")
        await session.err(b"\xff\x00")
        await session.out("")
        await session.exit(7)
        assert await partner.next() == (wire.STDOUT, "é\n".encode())
        assert await partner.next() == (wire.STDERR, b"\xff\x00")
        assert await partner.next() == (wire.EXIT, b"7")


async def test_large_output_is_cut_into_frames() -> None:
    """More than one frame can hold arrives whole."""
    text = os.urandom(300_000)
    async with connected() as (session, partner), trio.open_nursery() as nursery:
        nursery.start_soon(session.out, text)
        received = b""
        while len(received) < len(text):
            kind, payload = await partner.next()
            assert kind == wire.STDOUT
            received += payload
        assert received == text


async def test_cancelled_output_keeps_the_stream_whole() -> None:
    """A send that is cancelled half-way is finished before the next frame."""
    async with connected() as (session, partner):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(session.out, bytes(4 << 20))
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.exit, 3)
            while (frame := await partner.next())[0] == wire.STDOUT:
                assert frame[1] == bytes(len(frame[1]))
        assert frame == (wire.EXIT, b"3")


async def test_output_of_two_tasks_never_mixes_frames() -> None:
    """Frames of tasks that write at the same time stay whole."""
    async with connected() as (session, partner), trio.open_nursery() as nursery:
        for letter in (b"a", b"b", b"c"):
            nursery.start_soon(session.out, letter * 200_000)
        total = 0
        while total < 600_000:
            _, payload = await partner.next()
            assert len(set(payload)) == 1
            total += len(payload)


async def test_stdin_is_sent_by_credit() -> None:
    """The client gets as many credits as there is room, and one more per chunk taken."""
    async with connected() as (session, partner):
        stdin = await session.stdin()
        for _ in range(wire.STDIN_CREDITS):
            assert await partner.next() == (wire.SEND_STDIN, b"")
        await partner.send(wire.STDIN, b"one")
        await partner.send(wire.STDIN, b"two")
        assert await stdin.receive() == b"one"
        assert await partner.next() == (wire.SEND_STDIN, b"")
        await partner.send(wire.STDIN_EOF)
        assert [chunk async for chunk in stdin] == [b"two"]
        assert session.open_ended


async def test_stdin_beyond_the_credit_breaks_the_protocol() -> None:
    """A client cannot fill the daemon's memory with stdin nobody asked for."""
    with pytest.raises(BaseExceptionGroup, check=protocol_error):
        await provoke(*[(wire.STDIN, b"x")] * (wire.STDIN_CREDITS + 1))


async def test_stdin_that_is_no_longer_wanted_is_dropped() -> None:
    """A command may close its stdin channel; what the client still sends does no harm."""
    async with connected() as (session, partner):
        stdin = await session.stdin()
        await stdin.aclose()
        for _ in range(wire.STDIN_CREDITS):
            await partner.next()
            await partner.send(wire.STDIN, b"x")
        await session.exit(0)
        assert await partner.next() == (wire.EXIT, b"0")


async def test_signals_come_after_they_were_asked_for() -> None:
    """forward_signals tells the client once and hands out what it sends."""
    async with connected() as (session, partner):
        signals = await session.forward_signals()
        assert await session.forward_signals() is signals
        assert await partner.next() == (wire.FORWARD_SIGNALS, b"")
        await partner.send(wire.SIGNAL, b"%d" % signal.SIGTERM)
        assert await signals.receive() == signal.SIGTERM


async def test_flood_of_signals_is_merged() -> None:
    """A command that takes no signals does not make the session stop or grow."""
    async with connected() as (session, partner):
        await session.forward_signals()
        for _ in range(1000):
            await partner.send(wire.SIGNAL, b"10")
        await partner.send(wire.RESIZE, b"5 6")
        assert await session.resizes.receive() == (5, 6)


async def test_only_the_latest_window_size_is_kept() -> None:
    """Sizes that came while nobody looked are replaced by the newest."""
    async with connected() as (session, partner):
        for rows in range(30, 40):
            await partner.send(wire.RESIZE, b"%d 120" % rows)
        while session.rows != 39:
            await trio.testing.wait_all_tasks_blocked()
        assert await session.resizes.receive() == (39, 120)
        assert session.cols == 120


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (b"?", b""),
        (wire.RESIZE, b"5"),
        (wire.RESIZE, b"-5 5"),
        (wire.RESIZE, b"9999999999 1"),
        (wire.SIGNAL, b"15"),
        (wire.OPENED, b"2"),
        (wire.HELLO, b""),
    ],
)
async def test_frames_out_of_place_break_the_protocol(kind: bytes, payload: bytes) -> None:
    """Unknown frames, wrong numbers and answers to no question end the session, not the daemon."""
    with pytest.raises(BaseExceptionGroup, check=protocol_error):
        await provoke((kind, payload))


async def test_hang_up_cancels_the_command() -> None:
    """A client that goes away cancels its command; what it still writes is dropped."""
    async with connected() as (session, partner):
        with session.scope:
            partner.sock.close()
            await trio.sleep_forever()
        assert session.scope.cancelled_caught
        await session.out("nobody reads this")
        await session.exit(0)


async def test_open_hands_over_the_clients_descriptor(tmp_path: Path) -> None:
    """The client is told path, flags and mode; its descriptor becomes the command's."""
    file = tmp_path / "file"
    file.write_text("inside")
    async with connected() as (session, partner), trio.open_nursery() as nursery:

        async def answer() -> None:
            kind, payload = await partner.next()
            flags, mode, path = payload.split(b"\0")
            assert kind == wire.OPEN
            assert (int(flags) & os.O_ACCMODE, int(mode), path) == (
                os.O_RDONLY,
                0o600,
                b"some/file",
            )
            fd = os.open(file, os.O_RDONLY)
            await partner.send(wire.OPENED, fds=(fd,))
            os.close(fd)

        nursery.start_soon(answer)
        fd = await session.open("some/file", os.O_RDONLY, 0o600)
        assert not os.get_inheritable(fd)
        with os.fdopen(fd) as opened:
            assert opened.read() == "inside"


async def test_open_reports_the_clients_errno() -> None:
    """A file the client may not open is an OSError with the path as the command gave it."""
    async with connected() as (session, partner), trio.open_nursery() as nursery:
        nursery.start_soon(partner.send, wire.STDIN_EOF)

        async def answer() -> None:
            await partner.next()
            await partner.send(wire.OPENED, b"13")

        nursery.start_soon(answer)
        with pytest.raises(PermissionError) as caught:
            await session.open("secret", os.O_RDONLY)
        assert caught.value.filename == "secret"


async def test_abandoned_open_closes_the_late_descriptor() -> None:
    """An answer that comes after the command gave up leaks nothing and confuses nobody."""
    async with connected() as (session, partner):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(session.open, "late", os.O_RDONLY)
                await partner.next()
                scope.cancel()
        reader, writer = os.pipe()
        await partner.send(wire.OPENED, fds=(writer,))
        os.close(writer)

        async def answer() -> None:
            assert (await partner.next())[1].endswith(b"second")
            await partner.send(wire.OPENED, b"2")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            with pytest.raises(FileNotFoundError):
                await session.open("second", os.O_RDONLY)
        assert os.read(reader, 1) == b""  # every copy of the writing end is closed
        os.close(reader)


async def test_hang_up_fails_an_open_even_where_cancellation_is_shielded() -> None:
    """A command that shields itself still learns that no answer will come."""
    async with connected() as (session, partner), trio.open_nursery() as nursery:

        async def vanish() -> None:
            await partner.next()
            partner.sock.close()

        nursery.start_soon(vanish)
        with trio.CancelScope(shield=True):
            with pytest.raises(ConnectionResetError):
                await session.open("x", os.O_RDONLY)
            with pytest.raises(ConnectionResetError):
                await session.open("y", os.O_RDONLY)


async def test_descriptors_nobody_asked_for_are_closed() -> None:
    """A client that pushes descriptors is thrown out and its descriptors are closed."""
    reader, writer = os.pipe()
    with pytest.raises(BaseExceptionGroup, check=protocol_error):
        await provoke(*[(wire.STDIN, b"")] * 4, fds=(writer, writer))
    os.close(writer)
    assert os.read(reader, 1) == b""
    os.close(reader)


async def test_peer_is_the_kernels_word() -> None:
    """SO_PEERCRED names this very process."""
    ours, theirs = trio.socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        assert peer_of(ours) == Peer(os.getpid(), os.geteuid(), os.getegid())
