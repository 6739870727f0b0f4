"""The launch payload as it is read, and what it is given when it says nothing."""

from __future__ import annotations

import os
from typing import Any

import pytest

from aruntime.container import messages, payloads

DEFAULTS: dict[str, Any] = {"rlimits": [["nofile", 7, 10, 20]], "oom_score_adj": 3}


def in_memory(content: bytes) -> int:
    """Return an anonymous file with this content, at its end."""
    fd = os.memfd_create("payload")
    os.write(fd, content)
    return fd


def test_what_it_does_not_say_it_gets() -> None:
    """What it says stays; defaults are nobody's to change."""
    silent: dict[str, Any] = {"rlimits": []}
    payloads.complete(silent, DEFAULTS)
    assert silent == {"rlimits": [["nofile", 7, 10, 20]], "oom_score_adj": 3}
    explicit: dict[str, Any] = {"rlimits": [["nofile", 7, 1, 1], ["core", 4, 0, 0]]}
    explicit["oom_score_adj"] = -5
    payloads.complete(explicit, DEFAULTS)
    assert explicit["rlimits"] == [["nofile", 7, 1, 1], ["core", 4, 0, 0]]
    assert explicit["oom_score_adj"] == -5
    assert DEFAULTS == {"rlimits": [["nofile", 7, 10, 20]], "oom_score_adj": 3}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"{}", "expected a payload for launch"),
        (b'{"version":1,"kind":"exec"}', "'exec', version 1"),
        (b'{"version":2,"kind":"launch"}', "version 2"),
    ],
)
def test_another_payload_is_refused(content: bytes, complaint: str) -> None:
    """Of another kind or version; the descriptor stays the caller's."""
    fd = in_memory(content)
    with pytest.raises(ValueError, match=complaint):
        payloads.read(fd, messages.LAUNCH)
    os.close(fd)


def test_a_payload_is_read_from_its_start() -> None:
    """Wherever its writer left off."""
    fd = in_memory(b'{"version":1,"kind":"launch","id":"c"}')
    assert payloads.read(fd, messages.LAUNCH)["id"] == "c"
    os.close(fd)


@pytest.mark.parametrize("early", [{}, {"clone": 0}, {"clone": "x", "cgroups": []}, None])
def test_what_stands_for_one_to_come_is_checked(early: Any) -> None:
    """The daemon is another program, perhaps of another version."""
    with pytest.raises((KeyError, TypeError, ValueError)):
        payloads.to_come(early, DEFAULTS)
