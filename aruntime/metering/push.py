"""What a push exporter is: the contract, its options, its secrets.

A push exporter is a blocking object; :class:`aruntime.metering.courier.Courier` calls it in a
worker thread, one call at a time, with records of the ledger in the order of their ``seq``, and
keeps track of what was acknowledged. Delivery is at least once: after a crash the same items come
again, so what an exporter makes of a record must depend on the record alone, and its receiver must
know an item it already has.

The class that the entry point names has ``kind = "push"``, a class ``Options`` derived from
:class:`PushOptions`, and is called with its name and these options. It must not connect when it is
made: a receiver that is down keeps no daemon from starting.

Out of scope: batches, retries, cursors (:mod:`aruntime.metering.courier`), tasks and logging
(:mod:`aruntime.daemon.exporting`).
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol, TypeVar

import msgspec

from aruntime.errors import AruntimeError, InvalidParameter, os_error_text
from aruntime.metering.export import exporter_class
from aruntime.metering.record import LedgerRecord

__all__ = [
    "LedgerRecord",
    "NotDelivered",
    "PushExporter",
    "PushOptions",
    "Rejected",
    "Seconds",
    "make_exporter",
    "read_secret",
]

Item = TypeVar("Item")

MAX_SECRET_BYTES = 65536
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")

Seconds = Annotated[float, msgspec.Meta(ge=0.01, le=86400)]


class PushOptions(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"
):
    """Keys of an ``[export.NAME]`` table that every push exporter has."""

    type: str = ""
    """Name of the entry point; by default that of the table."""
    interval: Seconds = 10.0
    """How often the ledger is looked at for new records."""
    batch: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 500
    """Items sent at once; the last record's items are not torn apart, so a few more may go."""
    retry_min: Seconds = 1.0
    """Pause after a first failure; doubled after each further one, with jitter."""
    retry_max: Seconds = 300.0
    start: Literal["oldest", "newest"] = "oldest"
    """What a first run exports: everything in the ledger, or only what comes from now on."""


class NotDelivered(AruntimeError):
    """The receiver did not acknowledge the items; they are sent again later.

    Attributes:
        retry_after: seconds the receiver asked for, 0 if it did not say.
    """

    def __init__(self, message: str, *, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Rejected(AruntimeError):
    """The receiver will never take these items as they are; at least one of them is at fault."""


class PushExporter(Protocol[Item]):
    """Turns records into items and hands items over. All calls block; one at a time.

    Attributes:
        target: where the items go, without secrets; for logs and `aruntime info`.
    """

    target: str

    def items(self, record: LedgerRecord) -> Sequence[Item]:
        """What a record is for the receiver, the same whenever it is asked; may be empty."""

    def send(self, items: Sequence[Item]) -> None:
        """Hand items over; returns when the receiver has acknowledged all of them.

        Must not block without a time limit.

        Raises:
            Rejected: they are at fault, all or some; then they are sent again in parts.
            NotDelivered: any other failure.
        """

    def shown(self, item: Item) -> Any:
        """An item for the file of rejected ones: anything that JSON can hold."""

    def close(self) -> None:
        """Give back connections. May be called twice; the next ``send`` opens new ones."""


def make_exporter(
    name: str, table: Mapping[str, Any], where: str
) -> tuple[PushExporter[Any], PushOptions]:
    """Make the exporter of a configuration table.

    Args:
        name: of the table; also of its cursor's file and its metrics' label.
        table: the keys and values.
        where: the file, for messages.

    Raises:
        InvalidParameter: a key or value is wrong, or there is no such exporter.
        Unavailable: something it needs is not installed.
    """
    place = f"{where}: [export.{name}]"
    if not NAME.fullmatch(name):
        raise InvalidParameter(f"{place}: a name has 1 to 64 letters, digits, '_' or '-'")
    kind = table.get("type", name)
    try:
        found = exporter_class("push", str(kind))
        options = parse_options(found.Options, table)
        return found(name, options), options
    except AruntimeError as error:
        raise type(error)(f"{place}: {error.message}") from error


def parse_options(options: type[PushOptions], table: Mapping[str, Any]) -> PushOptions:
    """Check a table against an exporter's options.

    Raises:
        InvalidParameter: a key is unknown or missing, or a value is of the wrong type or range.
    """
    known = sorted(field.encode_name for field in msgspec.structs.fields(options))
    for key in table:
        if key not in known:
            raise InvalidParameter(f"unknown key '{key}'; known are {', '.join(known)}")
    try:
        chosen = msgspec.convert(dict(table), options)
    except msgspec.ValidationError as error:
        raise InvalidParameter(_worded(str(error))) from error
    if chosen.retry_max < chosen.retry_min:
        raise InvalidParameter("retry-max must not be less than retry-min")
    return chosen


def _worded(text: str) -> str:
    """msgspec's message as ours: ``Expected `str`, got `int` - at `$.url``` and its like."""
    missing = re.fullmatch(r"Object missing required field `(.+)`", text)
    if missing:
        return f"the key '{missing[1]}' is missing"
    what, _, path = text.partition(" - at `$.")
    return f"{path.rstrip('`')}: {what[:1].lower()}{what[1:]}".replace("`", "'")


def read_secret(path: str) -> str:
    """Read a password or token from a file that nobody else may read.

    The file must be a regular one that belongs to us or to root, without permissions for group
    and others. Blanks and line ends around the secret do not count.

    Raises:
        InvalidParameter: it is missing, unreadable, empty, or open to others.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise InvalidParameter(f"cannot read a secret: {os_error_text(error)}") from error
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidParameter(f"{path} is no regular file; put the secret alone into one")
        if status.st_mode & 0o077 or status.st_uid not in (0, os.geteuid()):
            raise InvalidParameter(
                f"{path} is open to others (mode {stat.S_IMODE(status.st_mode):04o},"
                f" owner {status.st_uid}); chmod 600 it and give it to root"
            )
        secret = file.read(MAX_SECRET_BYTES)
    try:
        text = secret.decode("ascii").strip()
    except UnicodeDecodeError as error:
        raise InvalidParameter(f"{path} holds no secret of printable characters") from error
    if not text.isprintable() or not text:
        raise InvalidParameter(f"{path} holds no secret of printable characters")
    return text
