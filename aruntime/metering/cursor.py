"""How far an export has come: a small file that is replaced as a whole and synced.

Beside it lie the items a receiver would not take. Both survive the host's death: the cursor is
written only after the receiver has acknowledged, the rejected items before the cursor passes them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import Any

import msgspec

from aruntime.errors import Unavailable, os_error_text

FILE_MODE = 0o600
DIRECTORY_MODE = 0o700


class Cursor(msgspec.Struct, frozen=True, kw_only=True):
    """The last acknowledged record.

    Attributes:
        host_id: of the ledger it is a record of.
        seq: its number, 0 before the first.
        hash: its hash, empty before the first.
    """

    host_id: str
    seq: int = 0
    hash: str = ""


class CursorFile:
    """``DIRECTORY/NAME.json`` and ``DIRECTORY/NAME.rejected``; the directory is made if need be."""

    def __init__(self, directory: str, name: str) -> None:
        self.directory = directory
        self.path = os.path.join(directory, f"{name}.json")
        self.rejected_path = os.path.join(directory, f"{name}.rejected")

    def read(self) -> Cursor | None:
        """The cursor, None before the first was written.

        Raises:
            Unavailable: the file cannot be read or is damaged.
        """
        try:
            with open(self.path, "rb") as file:
                return msgspec.json.decode(file.read(), type=Cursor)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Unavailable(f"cannot read a cursor: {os_error_text(error)}") from error
        except msgspec.DecodeError as error:
            raise Unavailable(
                f"{self.path} is damaged: {error}; remove it to export everything again"
            ) from error

    def write(self, cursor: Cursor) -> None:
        """Replace the cursor; durable on return.

        Raises:
            OSError: the disk refuses; the former cursor is still there.
        """
        self._make_directory()
        temporary = f"{self.path}.new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        with open(os.open(temporary, flags, FILE_MODE), "wb") as file:
            file.write(msgspec.json.encode(cursor) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self.path)
        self._sync_directory()

    def reject(self, items: Iterable[tuple[Any, str]]) -> None:
        """Keep items that were not taken, each with the reason, as lines of JSON; durable.

        Raises:
            OSError: the disk refuses.
        """
        self._make_directory()
        now = time.time_ns()
        lines = [
            msgspec.json.encode({"time_ns": now, "reason": reason, "item": item}) + b"\n"
            for item, reason in items
        ]
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        with open(os.open(self.rejected_path, flags, FILE_MODE), "ab") as file:
            file.write(b"".join(lines))
            file.flush()
            os.fsync(file.fileno())
        self._sync_directory()

    def _make_directory(self) -> None:
        if not os.path.isdir(self.directory):
            os.mkdir(self.directory, DIRECTORY_MODE)
            _sync(os.path.dirname(self.directory))

    def _sync_directory(self) -> None:
        _sync(self.directory)


def _sync(directory: str) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
