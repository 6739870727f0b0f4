"""Write tar headers: the other half of :mod:`aruntime.images.tar`.

POSIX ustar, with a pax header where ustar has no room: long or non-ASCII names, large numbers,
extended attributes (as ``SCHILY.xattr.``, which docker, GNU tar and umoci read). The encoding is
``tarfile``'s; an entry is the reader's record, so that what is written can be compared with what is
read. Times are whole seconds, as docker writes them: a fraction would cost every file two more
blocks. Standard library only.
"""

from __future__ import annotations

import tarfile
from collections.abc import Mapping

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
    return made._replace(**fields)  # type: ignore[arg-type]  # fields by name


def encode(found: Entry) -> bytes:
    """Return the header blocks of an entry; content and padding are the caller's."""
    return _member(found, {}).tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def encode_sparse(found: Entry) -> bytes:
    """Return the header blocks and the map of a sparse file; its pieces and padding follow.

    GNU format 1.0 (GNU tar manual, "Storing Sparse Files"): the map leads the content, in whole
    blocks, and counts as content.
    """
    extents = found.extents or []
    numbers = [len(extents), *(number for extent in extents for number in extent)]
    lines = b"".join(b"%d\n" % number for number in numbers)
    lines += padding(len(lines))
    directory, _, name = found.name.rpartition(b"/")
    member = _member(
        found._replace(
            name=(directory or b".") + b"/GNUSparseFile.0/" + name,
            size=len(lines) + sum(length for _, length in extents),
        ),
        {
            "GNU.sparse.major": "1",
            "GNU.sparse.minor": "0",
            "GNU.sparse.name": _text(found.name),
            "GNU.sparse.realsize": str(found.real_size),
        },
    )
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape") + lines


def _member(found: Entry, records: Mapping[str, str]) -> tarfile.TarInfo:
    member = tarfile.TarInfo(_text(found.name))
    member.type = bytes([found.type])
    member.mode, member.uid, member.gid = found.mode, found.uid, found.gid
    member.size, member.mtime = found.size, found.mtime_ns // NANOSECONDS
    member.linkname = _text(found.linkname)
    member.devmajor, member.devminor = found.major, found.minor
    xattrs = {f"{XATTR_PREFIX}{_text(name)}": _text(value) for name, value in found.xattrs.items()}
    member.pax_headers = {**xattrs, **records}
    return member


def padding(size: int) -> bytes:
    """Return what fills the last block of some content."""
    return bytes(-size % BLOCK)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
