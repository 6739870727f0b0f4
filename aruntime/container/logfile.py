"""The log of a container on disk: raw bytes and an index of who wrote them when.

    log        what the container wrote, both streams, in the order it was read
    log.index  records of 16 bytes, little endian:
               u64  Unix time in ns at which the chunk was moved
               u64  offset of the chunk in ``log`` << 2 | stream (0 stdout, 1 stderr)

A record is appended *before* its bytes are spliced from the pipe; a chunk ends where the next
record's begins, the last one at the end of the file. So a process killed at any instruction
leaves at worst a record without bytes, which readers skip, and bytes never leave the kernel's
pipe without having reached the file. Rotation renames ``log`` to ``log.1`` and so on.

Standard library only: the shim moves output with the same functions while no daemon lives.
Rendering (docker's JSON, time stamps, tail) is out of scope.
"""

from __future__ import annotations

import errno
import os
import struct
import time

STDOUT = 0
STDERR = 1

RECORD = struct.Struct("<QQ")

CHUNK = 1 << 20
"""Most bytes moved by one splice: a busy container cannot keep the others waiting."""

# A pipe that is empty, a pipe whose writers are gone, a pty whose slave is closed.
EMPTY_ERRNOS = frozenset({errno.EAGAIN, errno.EINTR})
END_ERRNOS = frozenset({errno.EIO})
FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def log_paths(directory: str, generation: int = 0) -> tuple[str, str]:
    """Return the paths of log and index; generation 1 is the newest rotated pair."""
    suffix = f".{generation}" if generation else ""
    return f"{directory}/log{suffix}", f"{directory}/log.index{suffix}"


def open_log(directory: str) -> tuple[int, int]:
    """Open (or make) log and index for appending; the caller owns both descriptors.

    The log is opened without O_APPEND, which splice(2) refuses; its file position, shared with
    the shim through the same open file description, is where the next chunk goes.
    """
    log_path, index_path = log_paths(directory)
    log_fd = os.open(log_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        index_fd = os.open(index_path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
    except OSError:
        os.close(log_fd)
        raise
    os.lseek(log_fd, 0, os.SEEK_END)
    # A record torn by a full disk would shift all that follow.
    size = os.fstat(index_fd).st_size
    if size % RECORD.size:
        os.ftruncate(index_fd, size // RECORD.size * RECORD.size)
    return log_fd, index_fd


def move_chunk(source_fd: int, log_fd: int, index_fd: int, stream: int) -> int:
    """Move what ``source_fd`` (a readable pipe) holds into the log; return the bytes moved.

    Returns 0 at end of file (all writers are gone) and -1 when the pipe was empty after all.

    Raises:
        OSError: with an errno of FULL_ERRNOS the bytes are still in the pipe and nothing is
            lost; the caller tries again later.
    """
    offset = os.lseek(log_fd, 0, os.SEEK_CUR)
    os.write(index_fd, RECORD.pack(time.time_ns(), offset << 2 | stream))
    try:
        return os.splice(source_fd, log_fd, CHUNK, flags=os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK)
    except OSError as error:
        if error.errno in EMPTY_ERRNOS:
            return -1
        if error.errno in END_ERRNOS:
            return 0
        raise


def parse_index(records: bytes, end: int) -> list[tuple[int, int, int, int]]:
    """Return ``(time_ns, stream, offset, length)`` of every chunk that has bytes.

    ``end`` is where the log counts as ended: what the records say of bytes beyond it, which came
    later, is left out.
    """
    unpacked = list(RECORD.iter_unpack(records[: len(records) // RECORD.size * RECORD.size]))
    chunks = []
    for position, (time_ns, packed) in enumerate(unpacked):
        offset = packed >> 2
        following = unpacked[position + 1][1] >> 2 if position + 1 < len(unpacked) else end
        length = min(following, end) - offset
        if length > 0:
            chunks.append((time_ns, packed & 3, offset, length))
    return chunks


def rotate(directory: str, keep: int) -> None:
    """Rename log and index to generation 1, older ones one further; keep ``keep`` files in all.

    The caller opens a new pair afterwards; readers that hold the old one finish it.
    """
    for name_index in (0, 1):
        for generation in range(keep - 1, 0, -1):
            source = log_paths(directory, generation - 1)[name_index]
            if os.path.exists(source):
                os.replace(source, log_paths(directory, generation)[name_index])
    if keep <= 1:
        for path in log_paths(directory):
            os.unlink(path)
