"""Frames and the hello: what one side encodes, the other takes apart, however it arrives."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aruntime import wire
from aruntime.daemon.hello import decode_hello

kinds = st.binary(min_size=1, max_size=1)
words = st.binary(max_size=40).map(lambda word: word.replace(b"\0", b""))
names = words.map(lambda word: b"N" + word.replace(b"=", b""))


def decoded(decoder: wire.Decoder) -> list[tuple[bytes, bytes]]:
    """All complete frames of a decoder."""
    return list(iter(decoder.next_frame, None))


@given(st.lists(st.tuples(kinds, st.binary(max_size=300))), st.integers(1, 50))
def test_frames_survive_any_cut(frames: list[tuple[bytes, bytes]], step: int) -> None:
    """A stream cut into pieces of any size gives the same frames in the same order."""
    stream = b"".join(wire.frame(*frame) for frame in frames)
    decoder = wire.Decoder()
    received: list[tuple[bytes, bytes]] = []
    for start in range(0, len(stream), step):
        decoder.feed(stream[start : start + step])
        received += decoded(decoder)
    assert received == frames


def test_longest_payload_passes() -> None:
    """MAX_PAYLOAD itself is allowed."""
    decoder = wire.Decoder()
    decoder.feed(wire.frame(b"O", bytes(wire.MAX_PAYLOAD)))
    assert decoder.next_frame() == (b"O", bytes(wire.MAX_PAYLOAD))


def test_too_long_payload_is_refused_on_both_sides() -> None:
    """One byte more is an error when encoding, and when announced, before any of it arrives."""
    with pytest.raises(wire.ProtocolError):
        wire.frame(b"O", bytes(wire.MAX_PAYLOAD + 1))
    decoder = wire.Decoder()
    decoder.feed(b"O" + (wire.MAX_PAYLOAD + 1).to_bytes(4, "big"))
    with pytest.raises(wire.ProtocolError):
        decoder.next_frame()


def test_incomplete_frame_waits() -> None:
    """Half a header and half a payload give nothing yet."""
    decoder = wire.Decoder()
    whole = wire.frame(b"E", b"text")
    for length in range(len(whole)):
        fresh = wire.Decoder()
        fresh.feed(whole[:length])
        assert fresh.next_frame() is None
    decoder.feed(whole)
    assert decoder.next_frame() == (b"E", b"text")


def hello_payload(frames: bytes) -> bytes:
    """Put the hello's frames together as the daemon does."""
    decoder = wire.Decoder()
    decoder.feed(frames)
    parts = decoded(decoder)
    assert [kind for kind, _ in parts] == [wire.HELLO_PART] * (len(parts) - 1) + [wire.HELLO]
    return b"".join(payload for _, payload in parts)


@given(st.lists(words), st.dictionaries(names, words), words)
def test_hello_round_trip(argv: list[bytes], env: dict[bytes, bytes], cwd: bytes) -> None:
    """Any argv, environment and directory arrive as they were sent, undecodable bytes too."""
    frames = wire.encode_hello(b"1.2", cwd, b"101", (24, 80), argv, env)
    hello = decode_hello(hello_payload(frames))
    assert hello.version == "1.2"
    assert hello.terminals == (True, False, True)
    assert (hello.rows, hello.columns) == (24, 80)
    as_bytes = [word.encode(errors="surrogateescape") for word in hello.argv]
    assert as_bytes == argv
    assert hello.cwd.encode(errors="surrogateescape") == cwd
    pairs = {
        name.encode(errors="surrogateescape"): value.encode(errors="surrogateescape")
        for name, value in hello.env.items()
    }
    assert pairs == env


def test_long_hello_takes_several_frames() -> None:
    """A command line longer than one frame is not a special case."""
    argv = [b"x" * 100_000 for _ in range(25)]
    hello = decode_hello(hello_payload(wire.encode_hello(b"1", b"/", b"000", (0, 0), argv, {})))
    assert [len(word) for word in hello.argv] == [100_000] * 25


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"1\0/\0" + b"000\0000\0000",
        b"1\0/\0xx\0001\0001\0000",
        b"1\0/\000000\0a\0001\0000",
        b"1\0/\000000\0001\0001\0005\0a",
        b"1\0/\000000\0001\0001\000-1\0a",
    ],
)
def test_malformed_hello_is_a_protocol_error(payload: bytes) -> None:
    """Missing fields, wrong numbers and more arguments than there are never crash."""
    with pytest.raises(wire.ProtocolError):
        decode_hello(payload)


def test_wire_imports_nothing() -> None:
    """The module is on the client's start-up path."""
    code = (
        "import sys; before = set(sys.modules); import aruntime.wire;"
        "print(sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['aruntime', 'aruntime.wire']"
