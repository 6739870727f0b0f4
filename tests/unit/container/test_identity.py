"""Users and groups looked up in files that a stranger wrote."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aruntime.container import identity

PASSWD = b"""root:x:0:0:root:/root:/bin/sh
# a comment
broken line
alice:x:1000:1001:Alice:/home/alice:/bin/sh
nohome:x:1005:1005
dup:x:2000:2000::/first:
dup:x:3000:3000::/second:
big:x:4294967297:0::/big:
biggid:x:5:2147483648::/x:
1234:x:7:7::/numeric-name:
"""
GROUP = b"""root:x:0:
audio:x:29:alice,bob
video:x:44:bob,alice
alice:x:1001:
nolist:x:50
huge:x:4294967297:alice
"""


@pytest.mark.parametrize(
    ("name", "groups", "expected"),
    [
        ("", [], (0, 0, [0], b"/root")),
        ("root", [], (0, 0, [0], b"/root")),
        ("alice", [], (1000, 1001, [1001, 29, 44], b"/home/alice")),
        ("1000", [], (1000, 1001, [1001, 29, 44], b"/home/alice")),
        ("alice:audio", [], (1000, 29, [29], b"/home/alice")),
        ("alice:77", [], (1000, 77, [77], b"/home/alice")),
        (":audio", [], (0, 29, [29], b"/root")),
        ("4242", [], (4242, 0, [0], b"/")),
        ("4242:nolist", ["audio", "9", "audio"], (4242, 50, [50, 29, 9], b"/")),
        ("nohome", [], (1005, 1005, [1005], b"/")),
        ("dup", [], (2000, 2000, [2000], b"/first")),
        # A number is always a number, whatever names there are.
        ("1234", [], (1234, 0, [0], b"/")),
        ("007", [], (7, 7, [7], b"/numeric-name")),
        ("2147483647", [], (2147483647, 0, [0], b"/")),
    ],
)
def test_found(name: str, groups: list[str], expected: tuple[int, int, list[int], bytes]) -> None:
    """By docker's rules."""
    assert identity.find_user(name, groups, PASSWD, GROUP) == expected


@pytest.mark.parametrize(
    ("name", "groups", "text"),
    [
        ("nobody", [], "unable to find user nobody: no matching entries in passwd file"),
        ("alice:nogroup", [], "unable to find group nogroup: no matching entries in group file"),
        ("alice", ["nogroup"], "unable to find group nogroup"),
        ("4294967297", [], "outside 0"),
        ("2147483648", [], "outside 0"),
        ("0:4294967296", [], "outside 0"),
        ("0", ["99999999999"], "outside 0"),
        ("1x", [], "unable to find user 1x"),
        ("-1", [], "unable to find user -1"),
        ("+1", [], "unable to find user"),
        ("1_0", [], "unable to find user"),
        (" 1", [], "unable to find user"),
        ("\u0661", [], "unable to find user"),
        ("9" * 5000, [], "unable to find user"),
        ("big", [], "outside 0"),
        ("biggid", [], "outside 0"),
        ("huge:huge", [], "unable to find user"),
        ("0:huge", [], "unable to find group huge"),
    ],
)
def test_refused(name: str, groups: list[str], text: str) -> None:
    """Never a different user than the one asked for (CVE-2024-40635)."""
    with pytest.raises(LookupError, match=text):
        identity.find_user(name, groups, PASSWD, GROUP)


def test_empty_files() -> None:
    """An image without them has root and numbers."""
    assert identity.find_user("", [], b"", b"") == (0, 0, [0], b"/")
    assert identity.find_user("5:6", [], b"", b"") == (5, 6, [6], b"/")
    with pytest.raises(LookupError):
        identity.find_user("alice", [], b"", b"")


@given(st.text(max_size=20), st.binary(max_size=300), st.binary(max_size=300))
def test_any_files_give_a_valid_id_or_a_refusal(name: str, passwd: bytes, group: bytes) -> None:
    """Whatever the files hold: ids stay in range, and no other error comes out."""
    try:
        uid, gid, gids, home = identity.find_user(name, [], passwd, group)
    except LookupError:
        return
    assert all(0 <= number <= identity.MAX_ID for number in (uid, gid, *gids))
    assert home


@given(st.integers(min_value=0, max_value=identity.MAX_ID), st.binary(max_size=300))
def test_a_number_is_that_number(uid: int, passwd: bytes) -> None:
    """A numeric user is exactly that uid or refused, whatever passwd says."""
    try:
        found = identity.find_user(str(uid), [], passwd, b"")[0]
    except LookupError:
        return
    assert found == uid


def test_home_of_a_number() -> None:
    """For users of a specification, which has numbers only."""
    assert identity.home_of(1000, PASSWD) == b"/home/alice"
    assert identity.home_of(1005, PASSWD) == b"/"
    assert identity.home_of(9, PASSWD) == b"/"


def test_reading(tmp_path: Path) -> None:
    """A missing file is empty, also below a file; links are followed as usual."""
    (tmp_path / "passwd").write_bytes(PASSWD)
    (tmp_path / "link").symlink_to("passwd")
    assert identity.read_account_file(str(tmp_path / "link")) == PASSWD
    assert identity.read_account_file(str(tmp_path / "none")) == b""
    assert identity.read_account_file(str(tmp_path / "passwd/x")) == b""


def test_reading_what_is_no_file(tmp_path: Path) -> None:
    """A fifo does not block, a device, a directory and a magic link are refused."""
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path, Path("/dev/zero"), Path("/proc/self/exe")):
        with pytest.raises(OSError):
            identity.read_account_file(str(path))


def test_reading_a_huge_file(tmp_path: Path) -> None:
    """What could fill the memory is refused before it is read."""
    with open(tmp_path / "huge", "wb") as file:
        file.truncate(identity.MAX_FILE_BYTES + 1)
    with pytest.raises(OSError, match="too large"):
        identity.read_account_file(str(tmp_path / "huge"))
