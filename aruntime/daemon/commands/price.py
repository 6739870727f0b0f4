"""``price``: check price books, put them in force, list and show them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import trio

from aruntime.daemon.commands.flags import PROGRAM, Command, Flag, Parsed
from aruntime.daemon.commands.listing import render_rows
from aruntime.daemon.commands.values import escape_controls
from aruntime.daemon.session import Session
from aruntime.errors import NotFound
from aruntime.metering.presets import preset_names, preset_text
from aruntime.metering.price_store import SHORT_VERSION, Loading, PriceStore
from aruntime.metering.prices import Price, PriceBook, PriceBookError
from aruntime.metering.prices_check import instant_text
from aruntime.metering.prices_parse import MAX_BOOK_BYTES
from aruntime.metering.quantities import NS

if TYPE_CHECKING:
    from aruntime.daemon.compose import Daemon

STDIN = "-"
FAILED = 1

BOOK_TABLE = "{{.Version}}\t{{.Name}}\t{{.Since}}\t{{.Until}}\t{{.Prices}}\t{{.Currencies}}"
BOOK_TITLES = {
    "Version": "VERSION", "Name": "NAME", "Since": "IN FORCE SINCE", "Until": "UNTIL",
    "Prices": "PRICES", "SKUs": "SKUS", "Currencies": "CURRENCIES",
}  # fmt: skip
PRICE_TABLE = (
    "{{.SKU}}\t{{.PriceID}}\t{{.Price}}\t{{.Currency}}\t{{.Unit}}\t{{.ValidFrom}}\t{{.ValidTo}}"
)
PRICE_TITLES = {
    "SKU": "SKU", "PriceID": "PRICE ID", "Price": "PRICE", "Currency": "CURRENCY", "Unit": "UNIT",
    "ValidFrom": "VALID FROM", "ValidTo": "VALID TO", "Measure": "MEASURE", "Basis": "BASIS",
    "Quantum": "QUANTUM", "Minimum": "MINIMUM", "Free": "FREE", "Paused": "PAUSED",
    "Description": "DESCRIPTION", "Line": "LINE",
}  # fmt: skip


async def read_book(session: Session, path: str) -> bytes:
    """Read a book of the client's, or its standard input; a byte more than one may be long.

    Raises:
        OSError: the client cannot open it.
    """
    if path == STDIN:
        content = b""
        async for chunk in await session.stdin():
            content += chunk
            if len(content) > MAX_BOOK_BYTES:
                break
        return content
    fd = await session.open(path, os.O_RDONLY)
    with os.fdopen(fd, "rb") as file:
        return await trio.to_thread.run_sync(file.read, MAX_BOOK_BYTES + 1)


async def tell_problems(session: Session, error: PriceBookError) -> int:
    """Say everything that is wrong with a book, a line each; returns the exit code."""
    for problem in error.problems:
        await session.err(f"{PROGRAM}: {escape_controls(problem)}\n")
    return FAILED


def summary(book: PriceBook) -> str:
    """Say what is in a book."""
    skus = {price.sku for price in book.prices}
    currencies = ", ".join(sorted({price.currency for price in book.prices}))
    return (
        f"{len(book.prices)} prices of {len(skus)} SKUs in {currencies},"
        f" version {book.version[:SHORT_VERSION]}"
    )


async def run_check(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Check a book, and that it could follow the one in force; changes nothing."""
    name = parsed.args[0]
    content = await read_book(session, name)
    try:
        book = await trio.to_thread.run_sync(daemon.pricing.check, content, name)
    except PriceBookError as error:
        return await tell_problems(session, error)
    await session.out(f"{name}: {summary(book)}\n")
    return 0


async def run_load(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Put a book in force."""
    name = parsed.args[0]
    try:
        book = await daemon.pricing.load(await read_book(session, name), name)
    except PriceBookError as error:
        return await tell_problems(session, error)
    await session.out(f"In force: {summary(book)}\n")
    return 0


async def run_list(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """List the books that were ever in force, or the prices of one."""
    shown, store = parsed.string("format"), daemon.pricing.store
    if parsed.args:
        book = await trio.to_thread.run_sync(find_book, store, parsed.args[0])
        rows = [price_row(price) for price in book.prices]
        text = render_rows(rows, format=shown, titles=PRICE_TITLES, table=PRICE_TABLE)
    else:
        rows = await trio.to_thread.run_sync(book_rows, store, not parsed.boolean("no-trunc"))
        text = render_rows(rows, format=shown, titles=BOOK_TITLES, table=BOOK_TABLE)
    await session.out(text)
    return 0


async def run_show(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Print a book as it was written, or one to start from."""
    wanted = parsed.args[0] if parsed.args else ""
    text = await trio.to_thread.run_sync(book_text, daemon.pricing.store, wanted)
    await session.out(text)
    return 0


def find_book(store: PriceStore, wanted: str) -> PriceBook:
    """Find the book in force (``current``), or the one of a version. Blocks.

    Raises:
        NotFound, Conflict, InvalidParameter, Unavailable: there is none, several, none in force,
            or it cannot be read.
    """
    return store.required() if wanted == "current" else store.book_of(store.find(wanted).version)


def book_text(store: PriceStore, wanted: str) -> bytes:
    """Return the text of the book in force, of a version, or of a preset. Blocks.

    Raises:
        NotFound, Conflict, InvalidParameter, Unavailable: as :func:`find_book`.
    """
    if wanted in preset_names():
        return preset_text(wanted).encode()
    if wanted in ("", "current"):
        return store.text(store.required().version)
    try:
        return store.text(store.find(wanted).version)
    except NotFound as error:
        raise NotFound(f"{error}; books to start from are {', '.join(preset_names())}") from None


def book_rows(store: PriceStore, truncate: bool) -> list[dict[str, Any]]:
    """Return a row for each time a book came into force, the present one first. Blocks.

    Raises:
        Unavailable: a book cannot be read.
    """
    rows = []
    end_ns: int | None = None
    for loading in reversed(store.loadings):
        rows.append(book_row(store.book_of(loading.version), loading, end_ns, truncate))
        end_ns = loading.loaded_ns
    return rows


def book_row(
    book: PriceBook, loading: Loading, end_ns: int | None, truncate: bool
) -> dict[str, Any]:
    """Return the fields of a book; times to the second."""
    return {
        "Version": book.version[:SHORT_VERSION] if truncate else book.version,
        "Name": loading.name,
        "Since": instant_text(loading.loaded_ns // NS * NS),
        "Until": instant_text(end_ns // NS * NS if end_ns is not None else None),
        "Prices": str(len(book.prices)),
        "SKUs": str(len({price.sku for price in book.prices})),
        "Currencies": ",".join(sorted({price.currency for price in book.prices})),
    }


def price_row(price: Price) -> dict[str, Any]:
    """Return the fields of a price."""
    return {
        "SKU": price.sku,
        "PriceID": price.price_id,
        "Price": format(price.unit_price, "f"),
        "Currency": price.currency,
        "Unit": price.unit,
        "ValidFrom": instant_text(price.valid_from_ns),
        "ValidTo": instant_text(price.valid_to_ns),
        "Measure": price.measure,
        "Basis": price.basis,
        "Quantum": f"{price.quantum_ns}ns",
        "Minimum": f"{price.minimum_ns}ns",
        "Free": format(price.free, "f"),
        "Paused": price.paused,
        "Description": price.description,
        "Line": str(price.line),
    }


_FORMAT = Flag("format", "", "string", None, "string", "'table', 'json' or a Go template")

COMMANDS = [
    Command(
        "price check", "Check a price book", run_check, "FILE|-", minimum=1, maximum=1,
        completes="files",
        description="Says everything that is wrong with it, a line each, and what load would\n"
        "refuse beside the book in force. Exit code 1 if there is anything.",
    ),
    Command(
        "price load", "Put a price book in force", run_load, "FILE|-", minimum=1, maximum=1,
        completes="files",
        description="What was valid before cannot change. Records of running containers are cut.",
    ),
    Command(
        "price list", "List price books, or the prices of one", run_list, "[VERSION|current]",
        (_FORMAT, Flag("no-trunc", "", "bool", help="Do not truncate versions")),
        aliases=("price ls",), maximum=1,
    ),
    Command(
        "price show", "Print a price book", run_show, "[VERSION|current|PRESET]", maximum=1,
        description=f"Presets to start from: {', '.join(preset_names())}.",
    ),
]  # fmt: skip
