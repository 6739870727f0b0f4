"""Keeps price books: ``ROOT/prices``, one file per version, and which were in force since when.

    VERSION.toml    the text of a book; its name is the SHA-256 of its bytes, so it cannot change
    loaded.json     versions in the order in which they came into force; the last one is in force

A book is durable before it is named in force, and both names are given by rename: after a crash
the old book is in force or the new one. Nothing is ever deleted, since an old bill must still be
explained.

Out of scope: whether a book is right (:mod:`aruntime.metering.prices_parse`), telling the meter.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
from collections.abc import Collection

import msgspec

from aruntime.errors import Conflict, InvalidParameter, NotFound, Unavailable, os_error_text
from aruntime.images.layout import fsync_directory, write_durably
from aruntime.metering.prices import PriceBook
from aruntime.metering.prices_check import check_succession
from aruntime.metering.prices_parse import parse_book

DIRECTORY = "prices"
LOADED = "loaded.json"
SHORT_VERSION = 12
_VERSION = re.compile(r"[0-9a-f]{4,64}")


class Loading(msgspec.Struct, frozen=True, kw_only=True):
    """That a book came into force."""

    version: str
    name: str
    """Of the file it was loaded from."""
    loaded_ns: int
    """Unix time."""


class PriceStore:
    """The books of one daemon. Methods block and may be called in any thread.

    State: the book in force, replaced as a whole.

    Args:
        root: directory of the daemon's state; ``prices`` is made in it.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.directory = os.path.join(root, DIRECTORY)
        self.book: PriceBook | None = None
        """In force; None before the first was loaded."""
        self.loadings: tuple[Loading, ...] = ()
        """Every change, oldest first."""
        self._lock = threading.Lock()

    def open(self) -> None:
        """Make the directory, or read which book is in force.

        Raises:
            Unavailable: a file cannot be read or is not what was written.
        """
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(self.directory, 0o700)
                fsync_directory(os.path.dirname(self.directory))
            for name in os.listdir(self.directory):
                if name.endswith(".tmp"):
                    os.unlink(os.path.join(self.directory, name))  # left by a crash
            with open(os.path.join(self.directory, LOADED), "rb") as file:
                loadings = msgspec.json.decode(file.read(), type=tuple[Loading, ...])
        except FileNotFoundError:
            return
        except (OSError, msgspec.DecodeError) as error:
            reason = os_error_text(error) if isinstance(error, OSError) else f"{LOADED}: {error}"
            raise Unavailable(f"cannot read price books in {self.directory}: {reason}") from error
        if loadings:
            latest = loadings[-1]
            self.book = parse_book(self.text(latest.version), latest.name)
        self.loadings = loadings

    def load(
        self, content: bytes, name: str, *, now_ns: int, tenants: Collection[str] = ()
    ) -> PriceBook:
        """Put a book in force; durable when this returns. The one in force already is left alone.

        Args:
            content: TOML.
            name: of the file, for messages.
            now_ns: Unix time of now: what was valid before it may not change.
            tenants: that have used anything yet.

        Raises:
            PriceBookError: the book is wrong, or changes the past.
            Unavailable: the disk refuses; the old book stays in force.
        """
        with self._lock:
            book = self.check(content, name, now_ns=now_ns, tenants=tenants)
            if self.book is not None and self.book.version == book.version:
                return self.book
            loading = Loading(version=book.version, name=name, loaded_ns=now_ns)
            loadings = (*self.loadings, loading)
            try:
                write_durably(self._path(book.version), content)
                write_durably(os.path.join(self.directory, LOADED), msgspec.json.encode(loadings))
            except OSError as error:
                raise Unavailable(f"cannot keep price book: {os_error_text(error)}") from error
            self.loadings = loadings
            self.book = book
            return book

    def check(
        self, content: bytes, name: str, *, now_ns: int, tenants: Collection[str] = ()
    ) -> PriceBook:
        """Check that a book can be put in force now; the arguments are those of :meth:`load`.

        Raises:
            PriceBookError: the book is wrong, or changes the past.
        """
        book = parse_book(content, name)
        if self.book is not None and self.book.version != book.version:
            check_succession(self.book, book, now_ns, tenants)
        return book

    def find(self, version: str) -> Loading:
        """The latest loading of a version, which may be shortened.

        Raises:
            NotFound: none begins like that.
            Conflict: several do.
        """
        found = {item.version: item for item in self.loadings if item.version.startswith(version)}
        if not found or not _VERSION.fullmatch(version):
            raise NotFound(f"no price book of version {version} was ever loaded")
        if len(found) > 1:
            raise Conflict(f"several price books begin with {version}: give more of the version")
        return next(iter(found.values()))

    def text(self, version: str) -> bytes:
        """The bytes of a book.

        Args:
            version: in full.

        Raises:
            Unavailable: it cannot be read, or is not what was written.
        """
        path = self._path(version)
        try:
            with open(path, "rb") as file:
                content = file.read()
        except OSError as error:
            raise Unavailable(f"cannot read price book {os_error_text(error)}") from error
        if hashlib.sha256(content).hexdigest() != version:
            raise Unavailable(f"price book {path} was changed: its hash is not its name any more")
        return content

    def book_of(self, version: str) -> PriceBook:
        """A book that was loaded once.

        Args:
            version: in full.

        Raises:
            Unavailable: it cannot be read, or is not what was written.
        """
        name = next((item.name for item in self.loadings if item.version == version), version)
        return parse_book(self.text(version), name)

    def required(self) -> PriceBook:
        """The book in force.

        Raises:
            InvalidParameter: none was loaded.
        """
        if self.book is None:
            raise InvalidParameter(
                "no price book is loaded: write one ('aruntime price show fargate' is a start) and"
                " load it with 'aruntime price load FILE'"
            )
        return self.book

    def _path(self, version: str) -> str:
        return os.path.join(self.directory, f"{version}.toml")
