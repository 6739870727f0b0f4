"""Reads a price book from TOML and finds everything that is wrong with it in one go.

Each problem is one line, ``file:line: what``, and names the line where the wrong thing stands.
A key that is not known is an error, since a misspelt minimum would cost somebody money; floats
are refused, since ``0.1`` is none of their values.

Out of scope: what a book means (:mod:`aruntime.metering.prices`), rules between prices
(:mod:`aruntime.metering.prices_check`).
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import tomllib
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from aruntime.errors import os_error_text
from aruntime.metering import prices_values as values
from aruntime.metering.prices import (
    BASES,
    PAUSED_POLICIES,
    ROUNDINGS,
    SOLD,
    Price,
    PriceBook,
    PriceBookError,
    Terms,
)
from aruntime.metering.prices_check import check_prices
from aruntime.metering.quantities import MEASURES, UNITS
from aruntime.metering.toml_lines import Path as KeyPath
from aruntime.metering.toml_lines import key_lines

MAX_BOOK_BYTES = 1 << 20

_TOML_PLACE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)")


class Field(NamedTuple):
    """A key of a table."""

    read: values.Read
    is_required: bool = False


class Report:
    """Collects problems of one book, with their lines."""

    def __init__(self, name: str, lines: Mapping[KeyPath, int]) -> None:
        self.name = name
        self.lines = lines
        self._found: list[tuple[int, str]] = []

    def line_of(self, path: KeyPath) -> int:
        """The line of a key, or of the nearest table around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def add(self, place: KeyPath | int, text: str) -> None:
        """Note a problem at a key or on a line."""
        line = place if isinstance(place, int) else self.line_of(place)
        if (line, text) not in self._found:
            self._found.append((line, text))

    @property
    def problems(self) -> list[str]:
        """All of them, by line."""
        ordered = sorted(self._found, key=lambda found: found[0])
        return [f"{self.name}:{line}: {text}" for line, text in ordered]


def load_book(path: str | os.PathLike[str]) -> PriceBook:
    """Read a book from a file.

    Raises:
        PriceBookError: the file cannot be read, or the book is wrong.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BOOK_BYTES + 1)
    except OSError as error:
        raise PriceBookError([f"cannot read price book {os_error_text(error)}"]) from error
    return parse_book(content, os.fspath(path))


def parse_book(content: str | bytes, name: str) -> PriceBook:
    """Read a book from its text.

    Args:
        content: TOML; its bytes make the version.
        name: of the file, for error messages.

    Raises:
        PriceBookError: with every problem found.
    """
    content = content.encode() if isinstance(content, str) else content
    table, lines = _parsed(content, name)
    report = Report(name, lines)
    fields = _read_table(report, (), table, BOOK_FIELDS)
    tenants = _tenants(report, table.get("tenants"), fields.get("default_currency", ""))
    prices = _prices(report, table.get("price"), fields.get("paused"))
    check_prices(report.add, prices, fields.get("default_currency", ""), tenants)
    if report.problems:
        raise PriceBookError(report.problems)
    provider = fields["provider"]
    return PriceBook(
        version=hashlib.sha256(content).hexdigest(),
        name=name,
        provider=provider,
        publisher=fields.get("publisher", provider),
        invoice_issuer=fields.get("invoice_issuer", provider),
        service_name=fields.get("service_name", "Containers"),
        region_id=fields.get("region_id", ""),
        region_name=fields.get("region_name", ""),
        default_currency=fields["default_currency"],
        rounding=fields.get("rounding", "half_even"),
        tenants=tenants,
        prices=tuple(sorted(prices, key=lambda p: (p.sku, p.currency, p.valid_from_ns))),
    )


def _parsed(content: bytes, name: str) -> tuple[dict[str, Any], dict[KeyPath, int]]:
    """The document and the lines of its keys."""
    if len(content) > MAX_BOOK_BYTES:
        raise PriceBookError([f"{name}:1: longer than {MAX_BOOK_BYTES} bytes: no price book"])
    try:
        # tomllib takes CRLF for LF too; a lone CR it refuses.
        text = content.decode().replace("\r\n", "\n")
        return tomllib.loads(text), key_lines(text)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise PriceBookError([f"{name}:{line}: not valid UTF-8"]) from error
    except tomllib.TOMLDecodeError as error:
        found = _TOML_PLACE.search(str(error))
        last = text.rstrip("\n").count("\n") + 1
        line = int(found[1]) if found and found[1] else last
        what = _TOML_PLACE.sub("", str(error))
        raise PriceBookError([f"{name}:{line}: not valid TOML: {_lowered(what)}"]) from error
    except RecursionError as error:
        raise PriceBookError([f"{name}:1: nested too deeply: no price book"]) from error


def _lowered(text: str) -> str:
    return text[:1].lower() + text[1:]


def _read_table(
    report: Report, path: KeyPath, table: Mapping[str, Any], fields: Mapping[str, Field]
) -> dict[str, Any]:
    """The fields that are right; what is not is reported."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            advice = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(fields)}"
            report.add((*path, key), f"unknown key '{key}'; {advice}")
            continue
        try:
            found[key] = fields[key].read(value)
        except ValueError as error:
            report.add((*path, key), f"{key} {error}")
    for key, field in fields.items():
        if field.is_required and key not in table:
            report.add(path, f"{key} is missing")
    return found


def _tenants(report: Report, tables: Any, default_currency: str) -> dict[str, Terms]:
    found: dict[str, Terms] = {}
    if not isinstance(tables, dict):
        return found  # absent, or reported as a field of the wrong type
    for tenant, table in tables.items():
        path = ("tenants", tenant)
        if not isinstance(table, dict):
            report.add(path, f"tenant '{tenant}' {values.wrong_type(table, 'a table')}")
            continue
        fields = _read_table(report, path, table, TENANT_FIELDS)
        currency = fields.get("currency", default_currency)
        if "currency" in table and "currency" not in fields:
            continue
        found[tenant] = Terms(
            currency=currency,
            name=fields.get("name", ""),
            budget=fields.get("budget"),
            line=report.line_of((*path, "currency")),
        )
    return found


def _prices(report: Report, tables: Any, paused: str | None) -> list[Price]:
    """The prices that can be read, in the order of the file."""
    if tables is None:
        report.add((), "there is no [[price]]: nothing would be billed")
        return []
    if not isinstance(tables, list):
        return []  # reported as a field of the wrong type
    found = []
    for index, table in enumerate(tables):
        path: KeyPath = ("price", index)
        if not isinstance(table, dict):
            report.add(path, f"price {values.wrong_type(table, 'a table [[price]]')}")
            continue
        before = len(report.problems)
        fields = _read_table(report, path, table, PRICE_FIELDS)
        _check_price(report, path, fields)
        if len(report.problems) == before:
            found.append(_price(fields, paused, report.line_of(path)))
    return found


def _check_price(report: Report, path: KeyPath, fields: dict[str, Any]) -> None:
    """What two keys of one price must have in common."""
    start, end = fields.get("valid_from"), fields.get("valid_to")
    if start is not None and end is not None and end <= start:
        report.add((*path, "valid_to"), "valid_to must be later than valid_from")
    measure = fields.get("measure")
    if measure is None:
        return
    sold = SOLD[measure]
    basis = fields.get("basis")
    if basis is None and "" not in sold.measures and (*path, "basis") not in report.lines:
        report.add(path, f"basis is missing: {', '.join(sold.measures)}")
        return
    if basis is not None and basis not in sold.measures:
        report.add((*path, "basis"), f"basis cannot be given for measure '{measure}'")
        return
    if basis is None and "" not in sold.measures:
        return
    dimension = UNITS[MEASURES[sold.measures[basis or ""]].unit].dimension
    if "unit" in fields and UNITS[fields["unit"]].dimension != dimension:
        fitting = [name for name, unit in UNITS.items() if unit.dimension == dimension]
        report.add(
            (*path, "unit"),
            f"unit '{fields['unit']}' does not measure {measure}; use one like {fitting[0]},"
            f" {fitting[len(fitting) // 2]} or {fitting[-1]}" if len(fitting) > 2
            else f"unit '{fields['unit']}' does not measure {measure}; use {fitting[0]}",
        )  # fmt: skip
    for key in ("quantum", "minimum"):
        if key in fields and measure != "container" and basis not in ("allocation", "max"):
            report.add(
                (*path, key),
                f"{key} rounds the time of a run: it needs basis 'allocation' or 'max',"
                " or measure 'container'",
            )


def _price(fields: dict[str, Any], paused: str | None, line: int) -> Price:
    return Price(
        sku=fields["sku"],
        price_id=fields["price_id"],
        measure=fields["measure"],
        basis=fields.get("basis", ""),
        unit=fields["unit"],
        unit_price=fields["unit_price"],
        currency=fields["currency"],
        valid_from_ns=fields["valid_from"],
        valid_to_ns=fields.get("valid_to"),
        quantum_ns=fields.get("quantum", 1),
        minimum_ns=fields.get("minimum", 0),
        free=fields.get("free", Decimal(0)),
        paused=fields.get("paused", paused or "memory_only"),
        start_event=fields.get("start_event", "start"),
        description=fields.get("description", ""),
        line=line,
    )


BOOK_FIELDS: dict[str, Field] = {
    "provider": Field(values.read_text, True),
    "publisher": Field(values.read_text),
    "invoice_issuer": Field(values.read_text),
    "service_name": Field(values.read_text),
    "region_id": Field(values.read_text),
    "region_name": Field(values.read_text),
    "default_currency": Field(values.read_currency, True),
    "rounding": Field(values.read_one_of(ROUNDINGS)),
    "paused": Field(values.read_one_of(PAUSED_POLICIES)),
    "tenants": Field(values.read_shape(dict, "tables [tenants.NAME]")),
    "price": Field(values.read_shape(list, "tables [[price]]")),
}
"""Keys at the top of a book."""

TENANT_FIELDS: dict[str, Field] = {
    "currency": Field(values.read_currency),
    "name": Field(values.read_text),
    "budget": Field(values.read_amount),
}

PRICE_FIELDS: dict[str, Field] = {
    "sku": Field(values.read_text, True),
    "price_id": Field(values.read_text, True),
    "measure": Field(values.read_one_of(SOLD), True),
    "basis": Field(values.read_one_of(BASES)),
    "unit": Field(values.read_one_of(UNITS), True),
    "unit_price": Field(values.read_amount, True),
    "currency": Field(values.read_currency, True),
    "valid_from": Field(values.read_instant, True),
    "valid_to": Field(values.read_instant),
    "quantum": Field(values.read_quantum),
    "minimum": Field(values.read_duration),
    "free": Field(values.read_amount),
    "paused": Field(values.read_one_of(PAUSED_POLICIES)),
    "start_event": Field(values.read_start_event),
    "description": Field(values.read_text),
}
