"""Frames between the `aruntime` client and aruntimed, on a Unix stream socket.

A frame is one type byte, four bytes of big-endian length and at most MAX_PAYLOAD bytes. Text is
in the file system encoding; lists are separated by NUL, which no argument, path or environment
variable can contain.

    client                                         daemon
      │  h… H  hello (see encode_hello)              │  uid, gid and pid come from SO_PEERCRED
      ├─────────────────────────────────────────────►│
      │                                              │
      │  O bytes   write to standard output          │
      │  E bytes   write to standard error           │
      │  I         one more chunk of stdin, please   │  a credit: the client reads its stdin only
      │  S         forward signals from now on       │  while it has one, so that stdin never
      │  R 1|0     terminal raw / as it was          │  fills the socket and signals get through
      │  P flags NUL mode NUL path   open this       │
      │  M path NUL content   replace a file         │
      │  C name NUL action NUL input                 │  run docker-credential-NAME ACTION
      │  Y take|place NUL flags NUL path             │  begin to copy files (answered by F)
      │  y         wait for the end of the copy      │
      │  X code    exit                              │  then the daemon closes
      │◄─────────────────────────────────────────────┤
      │  I bytes   one chunk of stdin (≤ STDIN_CHUNK)│
      │  i         end of stdin                      │
      │  W rows SP columns   window size             │
      │  S number  signal                            │
      │  F         opened: the descriptor rides along│  SCM_RIGHTS on this frame's first byte
      │  F errno   not opened                        │
      │  M errno   replaced (0), or not              │
      │  C code NUL output   the program has ended   │
      │  Y code    the copy has ended                │
      ├─────────────────────────────────────────────►│

This module knows bytes only: sockets belong to `aruntime.cli.client` and
`aruntime.daemon.session`. It imports nothing, since it is on the client's start-up path.
"""

HEADER_BYTES = 5
MAX_PAYLOAD = 1 << 20
"""Longest payload of one frame in bytes; a longer announcement is a protocol error."""
MAX_HELLO = 8 << 20
"""Longest hello in bytes over all its frames (execve(2) itself stops at 6 MiB)."""
STDIN_CHUNK = 32 << 10
"""Longest payload of one stdin frame."""
STDIN_CREDITS = 4
"""Stdin frames under way at most: together they fit the default socket buffer."""

# client → daemon
HELLO_PART = b"h"
HELLO = b"H"
STDIN = b"I"
STDIN_EOF = b"i"
RESIZE = b"W"
SIGNAL = b"S"
OPENED = b"F"
REPLACED = b"M"
CREDENTIAL_ANSWER = b"C"
COPIED = b"Y"

# daemon → client
STDOUT = b"O"
STDERR = b"E"
SEND_STDIN = b"I"
FORWARD_SIGNALS = b"S"
RAW_MODE = b"R"
OPEN = b"P"
REPLACE = b"M"
CREDENTIAL = b"C"
COPY = b"Y"
COPY_END = b"y"
EXIT = b"X"


class ProtocolError(ValueError):
    """The other side sent what the protocol above does not allow."""


def frame(kind: bytes, payload: bytes = b"") -> bytes:
    """Encode one frame. A payload over MAX_PAYLOAD raises ProtocolError."""
    if len(payload) > MAX_PAYLOAD:
        raise ProtocolError(f"a frame of {len(payload)} bytes is over the limit of {MAX_PAYLOAD}")
    return kind + len(payload).to_bytes(4, "big") + payload


class Decoder:
    """Cuts a byte stream into frames; it owns the bytes not yet cut."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, received: bytes) -> None:
        """Append received bytes."""
        self._buffer += received

    def next_frame(self) -> tuple[bytes, bytes] | None:
        """Take (type, payload) off the front; None while the frame is incomplete.

        A length over MAX_PAYLOAD raises ProtocolError as soon as the header is there.
        """
        buffer = self._buffer
        if len(buffer) < HEADER_BYTES:
            return None
        end = HEADER_BYTES + int.from_bytes(buffer[1:HEADER_BYTES], "big")
        if end - HEADER_BYTES > MAX_PAYLOAD:
            raise ProtocolError(f"a frame announces {end - HEADER_BYTES} bytes")
        if len(buffer) < end:
            return None
        kind = bytes(buffer[:1])
        payload = bytes(buffer[HEADER_BYTES:end])
        del buffer[:end]
        return kind, payload


def encode_hello(
    version: bytes,
    cwd: bytes,
    terminals: bytes,
    size: tuple[int, int],
    argv: list[bytes],
    env: dict[bytes, bytes],
) -> bytes:
    """All frames of the client's first message.

    Args:
        version: the client's version; it stays the first field in every version, so that
            two sides that differ can say so.
        cwd: the working directory, empty if it has been deleted.
        terminals: ``1`` or ``0`` each for stdin, stdout and stderr being a terminal.
        size: rows and columns of the terminal, zeros without one.
        argv: the command and its arguments, without the program's name and global options.
        env: the whole environment (``-e NAME`` may ask for any variable).
    """
    fields = [version, cwd, terminals, b"%d" % size[0], b"%d" % size[1], b"%d" % len(argv), *argv]
    fields += [name + b"=" + value for name, value in env.items()]
    hello = b"\0".join(fields)
    parts = b""
    while len(hello) > MAX_PAYLOAD:
        parts += frame(HELLO_PART, hello[:MAX_PAYLOAD])
        hello = hello[MAX_PAYLOAD:]
    return parts + frame(HELLO, hello)
