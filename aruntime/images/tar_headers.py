"""Write tar headers: the other half of :mod:`aruntime.images.tar`.

POSIX ustar, with a pax header where ustar has no room: long or non-ASCII names, large numbers,
extended attributes (as ``SCHILY.xattr.``, which docker, GNU tar and umoci read). The encoding is
``tarfile``'s; an entry is the reader's record, so that what is written can be compared with what is
read. Times are whole seconds, as docker writes them: a fraction would cost every file two more
blocks. Standard library only.
"""

from __future__ import annotations

import tarfile

from aruntime.images import tar
from aruntime.images.tar import BLOCK, XATTR_PREFIX, Entry

NANOSECONDS = 1_000_000_000
END = bytes(2 * BLOCK)
"""End of an archive."""


def entry(name: bytes, kind: int, **fields: object) -> Entry:
    """Make an entry that is root's, of 1970, and empty, but for the given fields."""
    made = Entry(
        name=name, type=kind, mode=0o755 if kind == tar.DIRECTORY else 0o644, uid=0, gid=0, size=0,
        mtime_ns=0, linkname=b"", major=0, minor=0, xattrs={}, extents=None, real_size=0,
    )  # fmt: skip
    return made._replace(**fields)  # type: ignore[arg-type]


def encode(found: Entry) -> bytes:
    """Return the header blocks of an entry; content and padding are the caller's."""
    member = tarfile.TarInfo(_text(found.name))
    member.type = bytes([found.type])
    member.mode, member.uid, member.gid = found.mode, found.uid, found.gid
    member.size, member.mtime = found.size, found.mtime_ns // NANOSECONDS
    member.linkname = _text(found.linkname)
    member.devmajor, member.devminor = found.major, found.minor
    member.pax_headers = {
        f"{XATTR_PREFIX}{_text(name)}": _text(value) for name, value in found.xattrs.items()
    }
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def padding(size: int) -> bytes:
    """Return what fills the last block of some content."""
    return bytes(-size % BLOCK)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
