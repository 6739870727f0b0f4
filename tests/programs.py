"""Programs of a few bytes of machine code, for what no program of an image does."""

from __future__ import annotations

import struct

LOAD_ADDRESS = 0x400000
HEADERS = 64 + 56


def elf(code: bytes) -> bytes:
    """Return a statically linked x86-64 program of nothing but this machine code; see elf(5)."""
    size = HEADERS + len(code)
    identity = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    header = struct.pack(
        "<HHIQQQIHHHHHH", 2, 62, 1, LOAD_ADDRESS + HEADERS, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, LOAD_ADDRESS, LOAD_ADDRESS, size, size, 4096)
    return identity + header + segment + code


WAIT_AS_ROOT = elf(bytes.fromhex("b86900000031ff0f05b8220000000f05ebf7"))
"""Calls setuid(0), then pause(2) for ever."""

SWAP_FOR_EVER = elf(
    bytes.fromhex("b83c010000bf9cffffff488d3516000000ba9cffffff4c8d150d00000041b8020000000f05ebd9")
    + b"/a\0/l\0"
)
"""Calls renameat2(AT_FDCWD, "/a", AT_FDCWD, "/l", RENAME_EXCHANGE) for ever."""
