"""The codec of messages, and what failures look like in them."""

from __future__ import annotations

import errno
import json
import os
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aruntime.container import messages

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=20,
)


@given(st.dictionaries(st.text(max_size=8), VALUES, max_size=6))
def test_codec_agrees_with_json(fields: dict[str, Any]) -> None:
    """Both ways, with the writer and the reader everybody else uses."""
    content = messages.encode(fields)
    assert json.loads(content) == fields
    assert messages.decode(content) == fields
    assert messages.decode(json.dumps(fields).encode()) == fields


def test_file_names_that_are_no_text_survive() -> None:
    """A byte outside of UTF-8 comes back as it was."""
    name = os.fsdecode(b"/x/\xff\xfe")
    assert os.fsencode(messages.decode(messages.encode({"path": name}))["path"]) == b"/x/\xff\xfe"


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"1", b"{", b'{"a":', b'{"a":1}x', b" {}", b"\xff", b'{"a":"', b"{'a':1}"],
)
def test_what_is_no_object_is_refused(content: bytes) -> None:
    """One kind of error for all of it."""
    with pytest.raises(ValueError):
        messages.decode(content)


@given(st.binary(max_size=60))
def test_no_bytes_crash_the_reader(content: bytes) -> None:
    """Anything is an object or a ValueError."""
    try:
        assert isinstance(messages.decode(content), dict)
    except ValueError:
        pass


def test_what_is_not_json_cannot_be_sent() -> None:
    """Bytes are base64 by the sender, not by accident."""
    with pytest.raises(TypeError, match="bytes cannot be part of a message"):
        messages.encode({"a": b"x"})


def test_failures() -> None:
    """errno, reason and path of an OSError; of anything else its text, on one line."""
    error = OSError(errno.ENOENT, "No such file or directory", b"/a\xff")
    assert messages.failure("step", error) == {
        "step": "step",
        "errno": errno.ENOENT,
        "strerror": "No such file or directory",
        "path": "/a\udcff",
    }
    assert messages.failure("s", LookupError("a\nb"))["strerror"] == "a b"
    assert messages.failure("s", ValueError())["strerror"] == "ValueError"
    assert messages.failure("s", OSError("odd"))["strerror"] == "odd"
    assert messages.failure("s", OSError(1, "x", 5))["path"] == "5"


def test_descriptors_travel() -> None:
    """Packed and unpacked without the array module."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendmsg([b"x"], [messages.rights([0, 1, 2])])
        _, ancillary, _, _ = theirs.recvmsg(1, messages.RIGHTS_SPACE)
        received = messages.received_fds(ancillary)
        assert len(received) == 3
        assert os.fstat(received[0]).st_ino == os.fstat(0).st_ino
        for fd in received:
            os.close(fd)
    assert messages.received_fds([]) == []


def test_steps_have_names_of_their_own() -> None:
    """A step tells where it failed: no two are called the same."""
    steps = [value for name, value in vars(messages).items() if name.startswith("STEP_")]
    assert len(set(steps)) == len(steps)
    assert set(steps) >= messages.PROGRAM_STEPS
