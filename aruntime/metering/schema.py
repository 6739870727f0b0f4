"""The tables of ``ROOT/ledger.db``, how a file is made and checked, and migrations.

Out of scope: what is written into them (:mod:`aruntime.metering.totals`).
"""

from __future__ import annotations

import sqlite3
import time
import uuid
from collections.abc import Callable, Iterable

import msgspec

from aruntime.errors import Unavailable
from aruntime.metering.archive import Archived
from aruntime.metering.chain import Checkpoint, Head, Sealed

SCHEMA_VERSION = 3

APPLICATION_ID = 0x61727431
"""``art1``: lets file(1) and us tell a ledger from somebody else's database."""

PRAGMAS = (
    # Readers (reports, exporters) never block the writer, and a commit is one append.
    "PRAGMA journal_mode = WAL",
    # FULL syncs the log at each commit; NORMAL could lose the last commits with the power.
    "PRAGMA synchronous = FULL",
    # A reader that checkpoints may hold the file for a moment; longer is a fault to be counted.
    "PRAGMA busy_timeout = 5000",
    # The rows of the present containers are in memory anyway: no second copy of all of them.
    "PRAGMA cache_size = -256",
    # After a burst the log shrinks back instead of keeping its greatest size for ever.
    "PRAGMA journal_size_limit = 16777216",
)

SCHEMA_1 = (
    """CREATE TABLE host (
        id TEXT NOT NULL,
        created_ns INTEGER NOT NULL
    ) STRICT""",
    """CREATE TABLE tenants (
        tenant TEXT PRIMARY KEY,
        totals TEXT NOT NULL
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE containers (
        container_id TEXT PRIMARY KEY,
        tenant TEXT NOT NULL,
        incarnation TEXT NOT NULL,
        seq INTEGER NOT NULL,
        reason TEXT NOT NULL,
        account TEXT NOT NULL
    ) STRICT, WITHOUT ROWID""",
)
"""Integers wider than 64 bits (byte-nanoseconds) live inside JSON text, hence STRICT columns."""

SCHEMA_2 = (
    """CREATE TABLE records (
        seq INTEGER PRIMARY KEY,
        container_id TEXT NOT NULL,
        tenant TEXT NOT NULL,
        wall_start INTEGER NOT NULL,
        wall_end INTEGER NOT NULL,
        hash TEXT NOT NULL,
        record TEXT NOT NULL
    ) STRICT""",
    "CREATE INDEX records_by_end ON records (wall_end)",
    "CREATE INDEX records_by_container ON records (container_id, seq)",
    """CREATE TABLE intervals (
        container_id TEXT PRIMARY KEY,
        interval TEXT NOT NULL
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE checkpoints (
        n INTEGER PRIMARY KEY,
        checkpoint TEXT NOT NULL
    ) STRICT""",
    """CREATE TABLE rollups (
        hour_ns INTEGER NOT NULL,
        tenant TEXT NOT NULL,
        container_id TEXT NOT NULL,
        price_version TEXT NOT NULL,
        rollup TEXT NOT NULL,
        PRIMARY KEY (hour_ns, tenant, container_id, price_version)
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE state (
        key TEXT PRIMARY KEY,
        value TEXT NOT NULL
    ) STRICT, WITHOUT ROWID""",
)
"""What the ledger's history needs. ``intervals``: where each container's open interval began;
``state``: head of the chain, clock, price version."""

SCHEMA_3 = (
    """CREATE TABLE bills (
        n INTEGER PRIMARY KEY,
        period TEXT NOT NULL,
        seal TEXT NOT NULL,
        document BLOB NOT NULL
    ) STRICT""",
    "CREATE INDEX bills_by_period ON bills (period, n)",
)
"""Bills that were issued, or kept when the records they were made from were deleted."""

ROWS = (
    "SELECT seq, container_id, tenant, wall_start, wall_end, hash, CAST(record AS BLOB)"
    " FROM records ORDER BY seq"
)
"""All records as they are stored, for :class:`aruntime.metering.verifying.Row`."""

NEWER_SCHEMA = (
    "ledger {path} has schema {found}, this aruntime knows {known}: "
    "start the newer aruntime, or move the file away"
)


def is_ledger(connection: sqlite3.Connection) -> bool:
    """Whether the database is a ledger of any schema."""
    owner: int = connection.execute("PRAGMA application_id").fetchone()[0]
    return owner == APPLICATION_ID


Migration = Callable[[sqlite3.Connection], None]
"""Fills the tables of schema 2 from those of schema 1, inside the upgrade's transaction."""


def prepare(connection: sqlite3.Connection, path: str, migrate: Migration) -> None:
    """Check the file, set the pragmas, make the tables of a new one, bring an old one up.

    Raises:
        Unavailable: it is no ledger or has a newer schema; it is left as it is.
        sqlite3.Error: it cannot be read or written.
    """
    found: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if found > SCHEMA_VERSION:
        raise Unavailable(NEWER_SCHEMA.format(path=path, found=found, known=SCHEMA_VERSION))
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if tables and not is_ledger(connection):
        raise Unavailable(f"{path} is a database but no ledger: move the file away")
    for pragma in PRAGMAS:
        connection.execute(pragma)
    if found < SCHEMA_VERSION:
        _upgrade(connection, found, migrate)


def _upgrade(connection: sqlite3.Connection, found: int, migrate: Migration) -> None:
    """One transaction from any older schema to the present one."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        if found < 1:
            for statement in SCHEMA_1:
                connection.execute(statement)
            host = (str(uuid.uuid4()), time.time_ns())
            connection.execute("INSERT INTO host VALUES (?, ?)", host)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        if found < 2:
            for statement in SCHEMA_2:
                connection.execute(statement)
        for statement in SCHEMA_3:
            connection.execute(statement)
        if found == 1:
            migrate(connection)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def insert_records(connection: sqlite3.Connection, sealed: Iterable[Sealed]) -> None:
    """Append to the chain; part of the caller's transaction."""
    connection.executemany(
        "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (
                record.seq,
                record.container_id,
                record.tenant,
                record.wall_start,
                record.wall_end,
                record.hash,
                text.decode(),
            )
            for record, text in sealed
        ],
    )


def insert_checkpoint(connection: sqlite3.Connection, made: Checkpoint) -> None:
    """Store a checkpoint; part of the caller's transaction."""
    text = msgspec.json.encode(made, order="sorted").decode()
    connection.execute("INSERT INTO checkpoints VALUES (?, ?)", (made.n, text))


def insert_bill(connection: sqlite3.Connection, made: Archived) -> None:
    """Store a bill; part of the caller's transaction."""
    text = msgspec.json.encode(made.seal, order="sorted").decode()
    values = (made.seal.n, made.seal.period, text, made.packed)
    connection.execute("INSERT INTO bills VALUES (?, ?, ?, ?)", values)


def set_state(connection: sqlite3.Connection, key: str, value: object) -> None:
    """Write one of the values in ``state`` (JSON); part of the caller's transaction."""
    text = msgspec.json.encode(value).decode()
    connection.execute("INSERT OR REPLACE INTO state VALUES (?, ?)", (key, text))


def load_head(connection: sqlite3.Connection, genesis_hash: str) -> Head:
    """The end of the chain as it is kept; of an empty one, where it will begin."""
    row = connection.execute("SELECT value FROM state WHERE key = 'head'").fetchone()
    return msgspec.json.decode(row[0], type=Head) if row is not None else Head(hash=genesis_hash)


def next_head(connection: sqlite3.Connection, genesis_hash: str) -> Head:
    """The head to go on from. It is behind every record that is there, whoever put it there.

    If somebody did, the next record does not follow the last one, and verifying tells for ever.
    """
    head = load_head(connection, genesis_hash)
    last: int | None = connection.execute("SELECT max(seq) FROM records").fetchone()[0]
    return msgspec.structs.replace(head, seq=max(head.seq, last or 0))
