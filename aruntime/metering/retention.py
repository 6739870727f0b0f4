"""How long the ledger keeps what: records, then sums by the hour, then one sum for each tenant.

What is deleted was verified, is covered by a checkpoint, and its sums are kept: in one transaction
records become roll-ups, a checkpoint of reason ``pruned`` says where the chain begins from now on
and what came before it adds up to, and the records go. Checkpoints are never deleted. A chain that
does not verify is not pruned: its faults would go with it.

Out of scope: when (:mod:`aruntime.metering.checkpoints` after each of its own).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from itertools import chain, takewhile

import msgspec

from aruntime.errors import Unavailable
from aruntime.metering.chain import (
    HOUR_NS,
    Checkpoint,
    Head,
    Rollup,
    Signs,
    add_sums,
    next_checkpoint,
    sums_of,
)
from aruntime.metering.ledger_file import LedgerFile
from aruntime.metering.record import LedgerRecord, decode, genesis
from aruntime.metering.schema import ROWS, insert_checkpoint
from aruntime.metering.verifying import Row, Walk, start_of

DAY_NS = 24 * HOUR_NS
RECORD_DAYS = 400
ROLLUP_DAYS = 762
"""25 months."""
AT_ONCE = 2000
"""Records, so that the writer is kept from others for a tenth of a second."""

FOR_EVER = 0
"""``hour_ns`` of the sums of hours that were not kept, one for each tenant and price version."""


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """How many days what is kept."""

    record_days: int = RECORD_DAYS
    rollup_days: int = ROLLUP_DAYS


def prune(
    file: LedgerFile, signer: Signs, keep: Retention, now_ns: int, *, before_ns: int | None = None
) -> int:
    """Let go of some of what is too old; how many records and roll-ups. Call until it is 0.

    Blocks, as one writer of the file among others.

    Args:
        file: the ledger.
        signer: of the new beginning.
        keep: how long.
        now_ns: Unix time.
        before_ns: records that ended later stay, however long they were kept.

    Raises:
        Unavailable: the chain is not what was written, or the disk refuses; nothing has changed.
    """
    old_ns = now_ns - keep.record_days * DAY_NS
    before_ns = old_ns if before_ns is None else min(old_ns, before_ns)
    try:
        with file.transaction() as connection:
            rows = list(_expired(connection, before_ns, now_ns))
            if not rows:
                return _fold(connection, now_ns - keep.rollup_days * DAY_NS)
            walk = Walk(_start(connection, file))
            faults = list(walk.go(rows, None))
            if faults:
                raise Unavailable(f"the ledger is not pruned, for it was changed: {faults[0]}")
            records = (decode(row.text, row.hash) for row in rows)
            _merge(connection, rollups_of(records).values())
            made = next_checkpoint(
                file.checkpoint,
                host=(file.host_id, file.created_ns),
                reason="pruned",
                at=(walk.seq, walk.hash, walk.sums),
                signer=signer,
            )
            insert_checkpoint(connection, made)
            connection.execute("DELETE FROM records WHERE seq <= ?", (walk.seq,))
    except (sqlite3.Error, ValueError) as error:  # what cannot be decoded is a ValueError
        raise Unavailable(f"cannot prune the ledger {file.path}: {error}") from error
    file.checkpoint = made
    return len(rows)


def rollups_of(records: Iterable[LedgerRecord]) -> dict[tuple[int, str, str, str], Rollup]:
    """Records by the hour they began in, tenant, container and price version."""
    found: dict[tuple[int, str, str, str], Rollup] = {}
    for record in records:
        hour_ns = record.wall_start - record.wall_start % HOUR_NS
        one = Rollup(
            hour_ns=hour_ns,
            tenant=record.tenant,
            container_id=record.container_id,
            price_version=record.price_version,
            name=record.name,
            records=1,
            first_seq=record.seq,
            last_seq=record.seq,
            estimated=int(bool(record.estimated)),
            sums=sums_of(record),
            runs={record.incarnation: record.running_ns} if record.running_ns else {},
        )
        key = (hour_ns, one.tenant, one.container_id, one.price_version)
        found[key] = joined(found[key], one) if key in found else one
    return found


def joined(first: Rollup, second: Rollup) -> Rollup:
    """One roll-up of two with the same key; the name is the later one's."""
    return msgspec.structs.replace(
        second if second.last_seq >= first.last_seq else first,
        records=first.records + second.records,
        first_seq=min(first.first_seq, second.first_seq),
        last_seq=max(first.last_seq, second.last_seq),
        estimated=first.estimated + second.estimated,
        sums=add_sums(first.sums, second.sums),
        runs=add_sums(first.runs, second.runs) if first.has_runs and second.has_runs else {},
    )


def _expired(connection: sqlite3.Connection, before_ns: int, now_ns: int) -> Iterator[Row]:
    """The oldest records, as far as they and a checkpoint that covers them are too old.

    A record that a clock gone wrong has dated into the future is as old as its neighbours.
    """

    def is_old(row: Row) -> bool:
        return row.wall_end < before_ns or row.wall_end > now_ns

    rows = connection.execute(f"{ROWS} LIMIT ?", (AT_ONCE,))
    first = Row._make(rows.fetchone() or (0, "", "", 0, now_ns, "", b""))
    if not is_old(first):
        return iter(())
    query = (
        "SELECT max(json_extract(checkpoint, '$.seq')) FROM checkpoints"
        " WHERE json_extract(checkpoint, '$.time_ns') < ?"
    )
    covered = connection.execute(query, (before_ns,)).fetchone()[0] or 0
    found = chain([first], map(Row._make, rows))
    return takewhile(lambda row: row.seq <= covered and is_old(row), found)


def _start(connection: sqlite3.Connection, file: LedgerFile) -> Head:
    """Where the chain begins now."""
    query = (
        "SELECT checkpoint FROM checkpoints WHERE json_extract(checkpoint, '$.reason') = 'pruned'"
        " ORDER BY n DESC LIMIT 1"
    )
    texts = connection.execute(query).fetchall()
    pruned = [msgspec.json.decode(text, type=Checkpoint) for (text,) in texts]
    return start_of(genesis(file.host_id, file.created_ns), pruned)


def _merge(connection: sqlite3.Connection, rollups: Iterable[Rollup]) -> None:
    """Add roll-ups to those that are kept."""
    for one in rollups:
        key = (one.hour_ns, one.tenant, one.container_id, one.price_version)
        query = (
            "SELECT rollup FROM rollups WHERE hour_ns = ? AND tenant = ? AND container_id = ?"
            " AND price_version = ?"
        )
        known = connection.execute(query, key).fetchone()
        kept = joined(msgspec.json.decode(known[0], type=Rollup), one) if known else one
        text = msgspec.json.encode(kept, order="sorted").decode()
        connection.execute("INSERT OR REPLACE INTO rollups VALUES (?, ?, ?, ?, ?)", (*key, text))


def _fold(connection: sqlite3.Connection, before_ns: int) -> int:
    """Turn hours that are too old into one sum for each tenant and price version."""
    query = "SELECT rollup FROM rollups WHERE hour_ns > ? AND hour_ns < ? ORDER BY hour_ns LIMIT ?"
    texts = connection.execute(query, (FOR_EVER, before_ns, AT_ONCE)).fetchall()
    for (text,) in texts:
        old = msgspec.json.decode(text, type=Rollup)
        key = (old.hour_ns, old.tenant, old.container_id, old.price_version)
        connection.execute(
            "DELETE FROM rollups WHERE hour_ns = ? AND tenant = ? AND container_id = ?"
            " AND price_version = ?",
            key,
        )
        whole = msgspec.structs.replace(old, hour_ns=FOR_EVER, container_id="", name="", runs={})
        _merge(connection, [whole])
    return len(texts)
