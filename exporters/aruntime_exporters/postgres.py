"""The ledger in PostgreSQL: a record is a row, upserted by its key; one query bills a fleet.

Each host writes its own records; a record that comes twice is the same row. A batch is one
transaction, acknowledged when PostgreSQL has committed it. The tables and views, which are made
and migrated here, are :mod:`aruntime_exporters.postgres_schema`'s.

psycopg is imported when an exporter is made, not before: it is the extra ``[postgres]``.

Out of scope: retries, cursor, batches (:mod:`aruntime.metering.courier`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from aruntime.errors import InvalidParameter, Unavailable
from aruntime.metering.currencies import MINOR_DIGITS
from aruntime.metering.prices import SOLD, Price, PriceBook
from aruntime.metering.prices_parse import parse_book
from aruntime.metering.push import (
    LedgerRecord,
    NotDelivered,
    PushOptions,
    Rejected,
    Seconds,
    read_secret,
)
from aruntime.metering.quantities import MEASURES
from aruntime_exporters.postgres_columns import COLUMNS, COUNTERS, KEY
from aruntime_exporters.postgres_schema import MIGRATIONS

if TYPE_CHECKING:
    import psycopg

Row = tuple[Any, ...]

LOCK = 0x61727431
"""Of the advisory lock that lets one daemon at a time migrate."""


class PostgresOptions(PushOptions, frozen=True, kw_only=True):
    """Keys of its table."""

    dsn: str
    """Where the database is, as libpq says it: ``host=db dbname=fleet user=meter sslmode=…``."""
    password_file: str = ""
    """Holds the password; read at each connection."""
    schema: str = "aruntime"
    """Where tables and views are made."""
    price_book: str = ""
    """A price book that the views bill by; give it to one daemon of the fleet."""
    timeout: Seconds = 30.0
    """For connecting, and for each statement."""


class PostgresExporter:
    """Upserts records; satisfies :class:`aruntime.metering.push.PushExporter`.

    State: the connection (owned), opened by the first ``send``, and the price book last given.

    Raises:
        InvalidParameter: the DSN, a file or the price book is wrong.
        Unavailable: psycopg is not installed.
    """

    kind = "push"
    Options = PostgresOptions

    def __init__(self, _name: str, options: PostgresOptions) -> None:
        try:
            import psycopg
        except ImportError as error:
            raise Unavailable(
                f"psycopg is missing ({error}); pip install 'aruntime[postgres]'"
            ) from error
        self._psycopg = psycopg
        self._options = options
        self._parameters = parameters(options)
        self.target = shown(self._parameters)
        if options.password_file:
            read_secret(options.password_file)
        self._given = b""
        self._connection: psycopg.Connection[Row] | None = None
        if options.price_book:
            read_book(options.price_book)

    def items(self, record: LedgerRecord) -> list[LedgerRecord]:
        """The record itself."""
        return [record]

    def send(self, items: Sequence[LedgerRecord]) -> None:
        """Upsert a batch in one transaction; as the protocol says."""
        error_types = self._psycopg
        try:
            connection = self._opened()
            with connection.transaction(), connection.cursor() as cursor:
                cursor.executemany(UPSERT, [row(record) for record in items])
        except (error_types.DataError, error_types.IntegrityError) as error:
            raise Rejected(worded(error)) from error
        except error_types.Error as error:
            self.close()
            raise NotDelivered(f"{self.target}: {worded(error)}") from error

    def shown(self, item: LedgerRecord) -> LedgerRecord:
        """The record."""
        return item

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _opened(self) -> psycopg.Connection[Row]:
        if self._connection is None or self._connection.closed:
            secret = self._options.password_file
            password = read_secret(secret) if secret else None
            self._connection = self._psycopg.connect(
                autocommit=True, password=password, **self._parameters
            )
            prepare(self._connection, self._options.schema)
        self._give_book(self._connection)
        return self._connection

    def _give_book(self, connection: psycopg.Connection[Row]) -> None:
        """Have the views bill by the price book, if the file is another one than last time."""
        path = self._options.price_book
        if not path:
            return
        book, text = read_book(path)
        if text == self._given:
            return
        with connection.transaction(), connection.cursor() as cursor:
            give_book(cursor, book)
        self._given = text


def parameters(options: PostgresOptions) -> dict[str, Any]:
    """libpq's parameters, with limits so that nothing blocks for ever.

    Raises:
        InvalidParameter: the DSN is none, or holds a password.
    """
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    try:
        given = conninfo_to_dict(options.dsn)
    except psycopg.ProgrammingError as error:
        raise InvalidParameter(f"dsn: {worded(error)}") from error
    if "password" in given:
        raise InvalidParameter("dsn must hold no password; use password-file")
    if not options.schema.isidentifier() or not options.schema.isascii():
        raise InvalidParameter(f"schema must be a plain name, not {options.schema!r}")
    milliseconds = round(options.timeout * 1000)
    limits = {
        "connect_timeout": max(2, round(options.timeout)),  # libpq takes less for 2 s
        "tcp_user_timeout": milliseconds,
        "keepalives_idle": 30,
        "application_name": "aruntime",
        "options": f"-c statement_timeout={milliseconds} -c lock_timeout={milliseconds}",
    }
    return limits | given


def shown(given: dict[str, Any]) -> str:
    """Where the database is, for people."""
    host = given.get("host") or given.get("hostaddr") or "localhost"
    port = f":{given['port']}" if given.get("port") else ""
    return f"postgresql://{host}{port}/{given.get('dbname', '')}"


def worded(error: Exception) -> str:
    """The first line of what PostgreSQL said."""
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__


def prepare(connection: psycopg.Connection[Row], schema: str) -> None:
    """Make or migrate the tables, and use them by their short names from then on.

    Raises:
        NotDelivered: the schema is of a newer aruntime.
        psycopg.Error: PostgreSQL refuses.
    """
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
        # The name is a plain identifier: parameters() has seen to it.
        cursor.execute("SELECT to_regnamespace(%s)", (schema,))
        found = cursor.fetchone()
        if found is None or found[0] is None:
            cursor.execute(f"CREATE SCHEMA {schema}".encode())
        cursor.execute(f"SET search_path TO {schema}".encode())
        cursor.execute("SELECT to_regclass(%s)", (f"{schema}.schema_version",))
        found = cursor.fetchone()
        if found is None or found[0] is None:
            cursor.execute("CREATE TABLE schema_version (version integer PRIMARY KEY)")
        cursor.execute("SELECT coalesce(max(version), 0) FROM schema_version")
        found = cursor.fetchone()
        version = int(found[0]) if found is not None else 0
        if version > len(MIGRATIONS):
            raise NotDelivered(
                f"schema {schema} has version {version}, this aruntime knows {len(MIGRATIONS)}: "
                "upgrade it"
            )
        for number, migration in enumerate(MIGRATIONS[version:], version + 1):
            cursor.execute(migration.encode())
            cursor.execute("INSERT INTO schema_version VALUES (%s)", (number,))


def _upsert() -> str:
    names, places = ", ".join(COLUMNS), ", ".join(["%s"] * len(COLUMNS))
    changes = ", ".join(f"{name} = excluded.{name}" for name in COLUMNS if name not in KEY)
    return (
        f"INSERT INTO records ({names}) VALUES ({places}) ON CONFLICT ({', '.join(KEY)}) "
        f"DO UPDATE SET {changes} WHERE records.hash <> excluded.hash"
    )


UPSERT = _upsert()


def row(record: LedgerRecord) -> Row:
    """A record in the order of the columns."""
    return (
        record.host_id, record.container_id, record.incarnation, record.seq,
        record.kind, record.tenant, record.name, record.state, record.wall_start, record.wall_end,
        *(getattr(record, name) for name in COUNTERS),
        *(sum(line[place] for line in record.blk.values()) for place in range(4)),
        *(
            sum(line[place] for line in record.net.values() if len(line) > place)
            for place in range(6)
        ),
        record.exit_code, record.end_reason, record.price_version, record.corrects,
        list(record.estimated), msgspec.json.encode(record.labels).decode(), record.hash,
        msgspec.json.encode(record, order="sorted").decode(),
    )  # fmt: skip


def read_book(path: str) -> tuple[PriceBook, bytes]:
    """Read a price book and its text.

    Raises:
        InvalidParameter: the file cannot be read, or is wrong.
    """
    try:
        with open(path, "rb") as file:
            text = file.read()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InvalidParameter(f"price-book: cannot read {path}: {reason}") from error
    return parse_book(text, os.path.basename(path)), text


def give_book(cursor: psycopg.Cursor[Row], book: PriceBook) -> None:
    """Write a price book; it is the one that bills from then on."""
    cursor.execute(
        "INSERT INTO price_books VALUES (%s, %s, %s, %s, %s, clock_timestamp()) "
        "ON CONFLICT (version) DO UPDATE SET given_at = excluded.given_at",
        (book.version, book.name, book.provider, book.default_currency, book.rounding),
    )
    cursor.executemany(
        "INSERT INTO price_tenants VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING",
        [(book.version, name, terms.currency, terms.name) for name, terms in book.tenants.items()],
    )
    cursor.executemany(
        f"INSERT INTO prices VALUES ({', '.join(['%s'] * 19)}) ON CONFLICT DO NOTHING".encode(),
        [price_row(book, price) for price in book.prices],
    )


def price_row(book: PriceBook, price: Price) -> Row:
    """A price in the order of the table's columns."""
    return (
        book.version, price.sku, price.price_id, price.currency, MINOR_DIGITS[price.currency],
        price.measure, price.basis, price.quantity_name, price.unit, price.unit_price,
        int(MEASURES[price.quantity_name].divisor * price.unit_size),
        price.valid_from_ns, price.valid_to_ns, price.quantum_ns, price.minimum_ns, price.free,
        price.bills_paused, SOLD[price.measure].is_integral,
        price.measure == "container" or price.basis in ("allocation", "max"),
    )  # fmt: skip
