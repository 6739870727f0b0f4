"""Who a process runs as: ``uid[:gid]`` or ``name[:group]`` looked up in the container's own files.

Parsed by hand and as bytes: NSS would load libraries and read files that belong to the container
(CVE-2019-14271), and ``pwd`` would read the host's. The rules are those of docker: the first
match wins, a number needs no entry, and supplementary groups are looked up only when no group
was given.

    /etc/passwd   name:password:uid:gid:comment:home:shell
    /etc/group    name:password:gid:member,member,…

Runs inside the container (after pivot_root or setns), so it imports nothing that is not loaded.
"""

from __future__ import annotations

import errno
import os
import stat

from aruntime.kernel import mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAX_ID = (1 << 31) - 1
"""Largest uid or gid: above it C programs see negative numbers (CVE-2024-40635)."""

MAX_DIGITS = 20
MAX_FILE_BYTES = 16 << 20
AT_FDCWD = -100


def find_user(
    name: str, groups: Sequence[str], passwd: bytes, group: bytes
) -> tuple[int, int, list[int], bytes]:
    """Return uid, gid, supplementary gids (the gid itself first) and home directory.

    Args:
        name: ``""`` (root), ``uid``, ``name``, ``uid:gid``, ``name:group`` and mixtures.
        groups: more groups, names or numbers (``--group-add``).
        passwd: content of /etc/passwd, empty if there is none.
        group: content of /etc/group, likewise.

    Raises:
        LookupError: a name has no entry, or a number is out of range.
    """
    user_text, _, group_text = name.encode(errors="surrogateescape").partition(b":")
    entry = passwd_entry(user_text or b"0", passwd)
    if entry is not None:
        login, uid, gid, home = entry
    elif not user_text or is_number(user_text):
        login, uid, gid, home = b"", checked_id(user_text or b"0", "user"), 0, b"/"
    else:
        raise LookupError(
            f"unable to find user {shown(user_text)}: no matching entries in passwd file"
        )
    gids: list[int] = []
    if group_text:
        gid = group_id(group_text, group)
    elif login:
        gids = [number for _, number, members in group_entries(group) if login in members]
    gids += [group_id(text.encode(errors="surrogateescape"), group) for text in groups]
    return uid, gid, list(dict.fromkeys([gid, *gids])), home or b"/"


def home_of(uid: int, passwd: bytes) -> bytes:
    """Return the home directory of a uid, ``/`` for one that has no entry."""
    entry = passwd_entry(b"%d" % uid, passwd)
    return (entry[3] if entry else b"") or b"/"


def passwd_entry(user: bytes, passwd: bytes) -> tuple[bytes, int, int, bytes] | None:
    """Return name, uid, gid and home of the first entry with this uid (digits) or name."""
    uid = checked_id(user, "user") if is_number(user) else -1
    for line in passwd.split(b"\n"):
        fields = line.strip().split(b":")
        if len(fields) < 4 or not is_number(fields[2]) or not is_number(fields[3]):
            continue
        if fields[0] == user if uid < 0 else int(fields[2]) == uid:
            home = fields[5] if len(fields) > 5 else b""
            ids = checked_id(fields[2], "user"), checked_id(fields[3], "group")
            return fields[0], *ids, home
    return None


def group_entries(group: bytes) -> Iterator[tuple[bytes, int, list[bytes]]]:
    """Yield name, gid and members of every well-formed line of /etc/group."""
    for line in group.split(b"\n"):
        fields = line.strip().split(b":")
        if len(fields) >= 3 and is_number(fields[2]) and int(fields[2]) <= MAX_ID:
            yield fields[0], int(fields[2]), fields[3].split(b",") if len(fields) > 3 else []


def group_id(text: bytes, group: bytes) -> int:
    """Return the gid of a group given as number or name.

    Raises:
        LookupError: there is no such group, or the number is out of range.
    """
    if is_number(text):
        return checked_id(text, "group")
    for name, gid, _ in group_entries(group):
        if name == text:
            return gid
    raise LookupError(f"unable to find group {shown(text)}: no matching entries in group file")


def is_number(text: bytes) -> bool:
    """Tell whether the text is a few ASCII digits (``int`` would take ``+1``, ``1_0`` and more)."""
    return text.isdigit() and len(text) <= MAX_DIGITS


def checked_id(digits: bytes, kind: str) -> int:
    """Return the number.

    Raises:
        LookupError: it exceeds 2^31 - 1.
    """
    if int(digits) > MAX_ID:
        raise LookupError(f"{kind} id {shown(digits)} is outside 0 … {MAX_ID}")
    return int(digits)


def shown(text: bytes) -> str:
    """Return text of unknown origin for an error message."""
    return text[:64].decode(errors="replace")


def read_account_file(path: str) -> bytes:
    """Return the content of a regular file below the present root, empty if there is none.

    The container may have put anything there: magic links are not followed, a fifo does not
    block, and a huge file is refused.

    Raises:
        OSError: it cannot be read, or is not a regular file of reasonable size.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    try:
        fd = mounts.openat2(AT_FDCWD, path, flags, 0, mounts.RESOLVE_NO_MAGICLINKS)
    except (FileNotFoundError, NotADirectoryError):
        return b""
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        if status.st_size > MAX_FILE_BYTES:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
        content = b""
        while len(content) <= MAX_FILE_BYTES and (chunk := os.read(fd, 1 << 16)):
            content += chunk
        return content
    finally:
        os.close(fd)
