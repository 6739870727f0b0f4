"""A NETLINK_ROUTE conversation: send an encoded batch, take one acknowledgement per message.

It knows the header of a netlink message and nothing of its content; encoding is done in
aruntime.network.

    struct nlmsghdr { u32 len; u16 type; u16 flags; u32 seq; u32 pid; }     netlink(7)
"""

from __future__ import annotations

import _socket
import errno
import os
import struct

NETLINK_ROUTE = 0
NLMSG_ERROR = 2
NLM_F_ACK = 4
NLMSG_ALIGNTO = 4
RECEIVE_BYTES = 1 << 16

_HEADER = struct.Struct("=IHHII")
_ERRNO = struct.Struct("=i")


def open_socket() -> _socket.socket:
    """Return a socket in the present network namespace; the caller closes it.

    Raises:
        OSError: as socket(2).
    """
    kind = _socket.SOCK_RAW | _socket.SOCK_CLOEXEC
    return _socket.socket(_socket.AF_NETLINK, kind, NETLINK_ROUTE)


def split(messages: bytes) -> list[bytes]:
    """Return the single messages of an encoded batch.

    Raises:
        OSError: EBADMSG when a length is wrong.
    """
    found, offset = [], 0
    while offset < len(messages):
        length = 0
        if len(messages) - offset >= _HEADER.size:
            length = _HEADER.unpack_from(messages, offset)[0]
        if not _HEADER.size <= length <= len(messages) - offset:
            raise OSError(errno.EBADMSG, f"netlink message of {length} bytes at offset {offset}")
        found.append(messages[offset : offset + length])
        offset += (length + NLMSG_ALIGNTO - 1) & -NLMSG_ALIGNTO
    return found


def send_and_ack(sock: _socket.socket, messages: bytes) -> None:
    """Send a batch in one call and wait until the kernel has acknowledged every message.

    Each message must carry NLM_F_ACK. The kernel executes them in order and does not stop at a
    failed one; the first failure is raised after all answers are in.

    Raises:
        OSError: what the kernel answered, with the message's place in the batch as a note;
            EBADMSG for a malformed batch.
    """
    pending = {}
    for place, message in enumerate(split(messages)):
        _, _, flags, sequence, _ = _HEADER.unpack_from(message)
        if not flags & NLM_F_ACK or sequence in pending:
            raise OSError(errno.EBADMSG, f"netlink message {place} asks for no answer of its own")
        pending[sequence] = place
    sock.send(messages)
    failures = {}
    while pending:
        for answer in split(sock.recv(RECEIVE_BYTES)):
            _, kind, _, sequence, _ = _HEADER.unpack_from(answer)
            if kind != NLMSG_ERROR or sequence not in pending:
                continue  # notifications and the objects some requests echo
            number = _ERRNO.unpack_from(answer, _HEADER.size)[0]
            place = pending.pop(sequence)
            if number:
                failures[place] = -number
    if failures:
        place = min(failures)
        error = OSError(failures[place], os.strerror(failures[place]))
        error.add_note(f"netlink message {place} of the batch")
        raise error
