"""Reads a ledger beside the daemon that writes it, or without one. Never changes it.

A read-only SQLite connection: readers and the writer do not wait for each other (WAL). One
iteration sees the ledger as of its beginning. A ledger of schema 1, which had no records yet,
reads as empty.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import msgspec

from aruntime.errors import Unavailable
from aruntime.metering.archive import Archived, Seal
from aruntime.metering.chain import HOUR_NS, Checkpoint, Head, Rollup
from aruntime.metering.record import LedgerRecord, decode, genesis
from aruntime.metering.schema import NEWER_SCHEMA, ROWS, SCHEMA_VERSION, is_ledger, load_head
from aruntime.metering.verifying import Row

FIRST_WITH_RECORDS = 2
"""The schema that brought the records."""
FIRST_WITH_BILLS = 3
NEVER_NS = (1 << 63) - 1
"""The last instant that the file can hold."""


class LedgerReader:
    """A ledger, to be read in a ``with``; methods block and may be called in any thread.

    Args:
        path: the file.

    Raises:
        Unavailable: there is no such file, it is no ledger, or a newer aruntime's.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = str(path)
        try:
            self._connection = sqlite3.connect(
                f"file:{quote(self._path)}?mode=ro",
                uri=True,
                isolation_level=None,
                check_same_thread=False,
            )
        except sqlite3.Error as error:
            raise Unavailable(f"cannot read ledger {self._path}: {error}") from error
        try:
            with _refusals(self._path):
                self._schema = self._check()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        """The reader itself."""
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def records(
        self,
        *,
        since_ns: int = 0,
        until_ns: int | None = None,
        tenant: str | None = None,
        container_id: str | None = None,
        after_seq: int = 0,
        limit: int | None = None,
    ) -> Iterator[LedgerRecord]:
        """Records in the order of their numbers.

        Args:
            since_ns, until_ns: Unix times; those whose interval has a part in [since, until), an
                instant (``start``, ``clock_step``) if it lies there.
            tenant, container_id: of these only.
            after_seq: with higher numbers only.
            limit: at most so many.

        Raises:
            Unavailable: the file cannot be read.
        """
        if self._schema < FIRST_WITH_RECORDS:
            return
        where, values = _where(since_ns, until_ns, tenant, container_id, after_seq)
        query = f"SELECT record, hash FROM records WHERE {where} ORDER BY seq LIMIT ?"
        with _refusals(self._path):
            cursor = self._connection.execute(query, (*values, -1 if limit is None else limit))
            for text, digest in cursor:
                yield decode(text, digest)

    def record(self, seq: int) -> LedgerRecord | None:
        """The record with a number; None if it is not there (any more).

        Raises:
            Unavailable: the file cannot be read.
        """
        found = next(self.records(after_seq=seq - 1, limit=1), None)
        return found if found is not None and found.seq == seq else None

    def last(
        self,
        count: int,
        *,
        since_ns: int = 0,
        until_ns: int | None = None,
        tenant: str | None = None,
        container_id: str | None = None,
    ) -> list[LedgerRecord]:
        """The last ones of :meth:`records`, in the order of their numbers.

        Raises:
            Unavailable: the file cannot be read.
        """
        if self._schema < FIRST_WITH_RECORDS:
            return []
        where, values = _where(since_ns, until_ns, tenant, container_id, 0)
        query = f"SELECT record, hash FROM records WHERE {where} ORDER BY seq DESC LIMIT ?"
        with _refusals(self._path):
            found = self._connection.execute(query, (*values, count)).fetchall()
            return [decode(text, digest) for text, digest in reversed(found)]

    @contextlib.contextmanager
    def instant(self) -> Iterator[None]:
        """Read as of one instant in the block, which no iteration may outlive."""
        with _refusals(self._path):
            self._connection.execute("BEGIN")
            try:
                yield
            finally:
                self._connection.execute("ROLLBACK")

    def rows(self) -> Iterator[Row]:
        """All records as they are stored, in the order of their numbers, to be verified.

        Raises:
            Unavailable: the file cannot be read.
        """
        if self._schema < FIRST_WITH_RECORDS:
            return
        with _refusals(self._path):
            for row in self._connection.execute(ROWS):
                yield Row._make(row)

    def kept_head(self) -> Head | None:
        """The head that the writer keeps beside the records; None in a ledger of schema 1."""
        if self._schema < FIRST_WITH_RECORDS:
            return None
        with _refusals(self._path):
            return load_head(self._connection, genesis(*self.host()))

    def head(self) -> tuple[int, str]:
        """Number and hash of the last record; 0 and the genesis hash of an empty ledger."""
        if self._schema >= FIRST_WITH_RECORDS:
            with _refusals(self._path):
                query = "SELECT seq, hash FROM records ORDER BY seq DESC LIMIT 1"
                if row := self._connection.execute(query).fetchone():
                    return row[0], row[1]
            pruned = [old for old in self.checkpoints() if old.reason == "pruned"]
            if pruned:
                return pruned[-1].seq, pruned[-1].hash
        return 0, genesis(*self.host())

    def host(self) -> tuple[str, int]:
        """The host's id, made with the ledger, and when that was (Unix ns)."""
        with _refusals(self._path):
            row = self._connection.execute("SELECT id, created_ns FROM host").fetchone()
        return row[0], row[1]

    def checkpoints(self) -> Iterator[Checkpoint]:
        """All checkpoints in the order of their numbers."""
        if self._schema < FIRST_WITH_RECORDS:
            return
        with _refusals(self._path):
            for (text,) in self._connection.execute(
                "SELECT checkpoint FROM checkpoints ORDER BY n"
            ):
                yield msgspec.json.decode(text, type=Checkpoint)

    def rollups(
        self, *, since_ns: int = 0, until_ns: int | None = None, tenant: str | None = None
    ) -> Iterator[Rollup]:
        """Sums of records that were deleted, by hour, in order of time.

        Args:
            since_ns, until_ns: Unix times; hours that have a part in [since, until).
            tenant: of this one only.
        """
        if self._schema < FIRST_WITH_RECORDS:
            return
        query = "SELECT rollup FROM rollups WHERE hour_ns > ?"
        values: list[object] = [since_ns - HOUR_NS]
        if until_ns is not None:
            query, values = f"{query} AND hour_ns < ?", [*values, until_ns]
        if tenant is not None:
            query, values = f"{query} AND tenant = ?", [*values, tenant]
        with _refusals(self._path):
            for (text,) in self._connection.execute(f"{query} ORDER BY hour_ns", values):
                yield msgspec.json.decode(text, type=Rollup)

    def pruned_running_ns(
        self, container_id: str, incarnation: str, before_ns: int = NEVER_NS
    ) -> int:
        """Running time of a run in records that were deleted and began before an instant.

        Of the hours that are still kept; a run that is older than those is not known whole.
        """
        if self._schema < FIRST_WITH_RECORDS:
            return 0
        query = "SELECT rollup FROM rollups WHERE container_id = ? AND hour_ns < ?"
        with _refusals(self._path):
            rows = self._connection.execute(query, (container_id, before_ns))
            found = (msgspec.json.decode(text, type=Rollup) for (text,) in rows)
            return sum(one.runs.get(incarnation, 0) for one in found)

    def oldest_usage_ns(self, before_ns: int) -> int | None:
        """When the earliest usage began of records that ended before an instant; None without."""
        if self._schema < FIRST_WITH_RECORDS:
            return None
        query = "SELECT min(wall_start) FROM records WHERE wall_end < ? AND container_id <> ''"
        with _refusals(self._path):
            found: int | None = self._connection.execute(query, (before_ns,)).fetchone()[0]
        return found

    def seals(self) -> Iterator[Seal]:
        """What vouches for the bills that are stored, in the order of their numbers."""
        if self._schema < FIRST_WITH_BILLS:
            return
        with _refusals(self._path):
            for (text,) in self._connection.execute("SELECT seal FROM bills ORDER BY n"):
                yield msgspec.json.decode(text, type=Seal)

    def bills(self, period: str | None = None) -> Iterator[Archived]:
        """The bills that are stored, of one month or of all, in the order of their numbers."""
        if self._schema < FIRST_WITH_BILLS:
            return
        query, values = "SELECT seal, document, n, period FROM bills", list[object]()
        if period is not None:
            query, values = f"{query} WHERE period = ?", [period]
        with _refusals(self._path):
            for text, packed, *place in self._connection.execute(f"{query} ORDER BY n", values):
                yield Archived(msgspec.json.decode(text, type=Seal), packed, (place[0], place[1]))

    def _check(self) -> int:
        """The file's schema.

        Raises:
            Unavailable: it is none that can be read here.
        """
        found: int = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if not is_ledger(self._connection) or not found:
            raise Unavailable(f"{self._path} is no ledger")
        if found > SCHEMA_VERSION:
            raise Unavailable(
                NEWER_SCHEMA.format(path=self._path, found=found, known=SCHEMA_VERSION)
            )
        return found


def _where(
    since_ns: int,
    until_ns: int | None,
    tenant: str | None,
    container_id: str | None,
    after_seq: int,
) -> tuple[str, list[object]]:
    """A condition on records and its values."""
    wanted: list[tuple[str, object]] = [("seq > ?", after_seq)]
    if since_ns:
        wanted.append(("max(wall_end, wall_start + 1) > ?", since_ns))
        wanted.append(("wall_end >= ?", since_ns))
    if until_ns is not None:
        wanted.append(("wall_start < ?", until_ns))
    if tenant is not None:
        wanted.append(("tenant = ?", tenant))
    if container_id is not None:
        wanted.append(("container_id = ?", container_id))
    return " AND ".join(term for term, _ in wanted), [value for _, value in wanted]


@contextlib.contextmanager
def _refusals(path: str) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, msgspec.DecodeError) as error:
        raise Unavailable(f"cannot read ledger {path}: {error}") from error
