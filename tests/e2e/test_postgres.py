"""The ledger in a real PostgreSQL: rows are the records, the views bill as rating does."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from aruntime_exporters import postgres_schema
from aruntime_exporters.postgres import (
    PostgresExporter,
    PostgresOptions,
    give_book,
    prepare,
    row,
)
from aruntime_exporters.postgres_columns import COLUMNS, EGRESS

from aruntime.errors import InvalidParameter
from aruntime.metering.ledger_reader import LedgerReader
from aruntime.metering.prices import PriceBook
from aruntime.metering.prices_parse import parse_book
from aruntime.metering.push import NotDelivered, Rejected
from aruntime.metering.rating import invoice, rate
from aruntime.metering.record import LedgerRecord
from tests.billing import NOVEMBER, book_text, records_of_days
from tests.harness import RunningDaemon, wait_until
from tests.ledgers import correction, usage
from tests.postgres import Cluster

BURN = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"
PRESETS = Path(__file__).parents[2] / "aruntime/metering/presets"


@pytest.fixture(scope="module")
def server() -> Iterator[Cluster]:
    """Yield a running server."""
    made = Cluster()
    made.start()
    yield made
    made.stop()


@pytest.fixture
def own_server() -> Iterator[Cluster]:
    """Yield a running server that a test may kill."""
    made = Cluster()
    made.start()
    yield made
    made.stop()


@pytest.fixture
def cluster(server: Cluster) -> Cluster:
    """Return the server without our schema."""
    server.query("DROP SCHEMA IF EXISTS aruntime CASCADE")
    return server


def exporter(cluster: Cluster, **options: Any) -> PostgresExporter:
    """An exporter into the cluster."""
    return PostgresExporter("x", PostgresOptions(dsn=cluster.dsn, **options))


def of_host(records: list[LedgerRecord], host_id: str) -> list[LedgerRecord]:
    """The records as another host's."""
    return [msgspec.structs.replace(record, host_id=host_id) for record in records]


def rated(records: list[LedgerRecord], book: PriceBook) -> dict[tuple[str, str, str], Decimal]:
    """Cost by tenant, currency and SKU, as rating has it."""
    costs: dict[tuple[str, str, str], Decimal] = defaultdict(Decimal)
    for line in rate(records, book, start_ns=NOVEMBER.start_ns, end_ns=NOVEMBER.end_ns):
        costs[line.tenant, line.currency, line.sku] += line.cost
    return dict(costs)


@pytest.mark.parametrize("seed", range(3))
def test_one_query_bills_two_hosts_as_rating_does(
    cluster: Cluster, tmp_path: Path, seed: int
) -> None:
    """Changing prices, paused time, quantum, minimum, free tier, currencies: to the last digit."""
    path = tmp_path / "prices.toml"
    path.write_text(book_text())
    records = of_host(records_of_days(seed), "one") + of_host(records_of_days(seed + 50), "two")
    sender = exporter(cluster, price_book=str(path))
    sender.send(sender.items(records[0]))
    sender.send(records)
    sender.close()
    book = parse_book(book_text(), "prices.toml")
    lines = rate(records, book, start_ns=NOVEMBER.start_ns, end_ns=NOVEMBER.end_ns)
    invoices = {one.tenant: (one.currency, one.total, one.payable) for one in invoice(lines, book)}
    shown = cluster.query(
        "SELECT tenant, currency, total, payable FROM invoices WHERE month = '2026-11'"
    )
    assert {tenant: (currency, total, payable) for tenant, currency, total, payable in shown} == (
        invoices
    )
    by_sku = cluster.query("SELECT tenant, currency, sku, cost FROM bill")
    assert {tuple(one[:3]): one[3] for one in by_sku} == {
        key: cost for key, cost in rated(records, book).items() if cost
    }


@pytest.mark.parametrize("seed", range(3))
def test_corrections_bill_the_same_in_sql(cluster: Cluster, tmp_path: Path, seed: int) -> None:
    """With their record or later, of runs that go on and that ended: to the last digit."""
    path = tmp_path / "prices.toml"
    path.write_text(book_text())
    records = of_host(records_of_days(seed), "one")
    made = []
    for number, record in enumerate(records):
        if record.net and number % 2:
            ran = sum(one.running_ns for one in records if one.container_id == record.container_id)
            late_ns = NOVEMBER.end_ns - number * 10**9 if number % 4 == 1 else 0
            made.append(
                correction(
                    record, seq=len(records) + number + 1, late_ns=late_ns,
                    run_ns=ran if late_ns else 0, running_ns=-(record.running_ns // 3),
                    cpu_ns=-(record.cpu_ns // 5), cpu_alloc_ns=-(record.cpu_alloc_ns // 7),
                    mem_bytens2=-(record.mem_bytens2 // 2), net_transmit=12345,
                    proc_write=-(record.proc_write // 5), blk_read=-1,
                )
            )  # fmt: skip
    assert {one.wall_end - one.wall_start > 0 for one in made} == {True, False}
    book = parse_book(book_text(), "prices.toml")
    free = tuple(msgspec.structs.replace(price, free=Decimal(0)) for price in book.prices)
    book = msgspec.structs.replace(book, prices=free) if seed == 1 else book
    sender = exporter(cluster)
    sender.send([*records, *made])
    with psycopg.connect(cluster.dsn) as connection, connection.cursor() as cursor:
        cursor.execute("SET search_path TO aruntime")
        give_book(cursor, book)
    sender.close()
    by_sku = cluster.query("SELECT tenant, currency, sku, cost FROM bill WHERE month = '2026-11'")
    assert {tuple(one[:3]): one[3] for one in by_sku} == {
        key: cost for key, cost in rated([*records, *made], book).items() if cost
    }
    marked = cluster.query("SELECT DISTINCT seq FROM charges WHERE is_correction ORDER BY seq")
    assert [seq for (seq,) in marked] == sorted(one.seq for one in made if one.corrects and (
        one.wall_end == one.wall_start))  # fmt: skip


def insert_as_before(cluster: Cluster, record: LedgerRecord) -> None:
    """Make the tables of the present migrations and a row as a daemon did that knew no egress."""
    with psycopg.connect(cluster.dsn, autocommit=True) as connection, connection.cursor() as cursor:
        prepare(connection, "aruntime")
        own = [
            (name, value)
            for name, value in zip(COLUMNS, row(record), strict=True)
            if name not in EGRESS
        ]
        names = ", ".join(name for name, _ in own)
        places = ", ".join(["%s"] * len(own))
        text = f"INSERT INTO records ({names}) VALUES ({places})".encode()
        cursor.execute(text, [value for _, value in own])


def test_what_left_the_host_is_billed(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of records that came before its column did, too."""
    text = book_text().replace('"network_transmit"', '"network_egress"')
    book = parse_book(text, "prices.toml")
    plain, *rest = of_host(records_of_days(3, runs=1), "one")
    net = {"eth0": (1, 2, 3, 4, 5 << 30, 6), "old": (1, 1, 1, 1)}
    record = msgspec.structs.replace(plain, net=net, running_ns=plain.wall_end - plain.wall_start)
    monkeypatch.setattr("aruntime_exporters.postgres.MIGRATIONS", postgres_schema.MIGRATIONS[:2])
    insert_as_before(cluster, record)
    monkeypatch.undo()
    path = tmp_path / "prices.toml"
    path.write_text(text)
    sender = exporter(cluster, price_book=str(path))
    sender.send(rest)
    sender.close()
    shown = cluster.query("SELECT sum(cost) FROM charges WHERE sku = 'egress'")
    costs = rated([record, *rest], book)
    assert shown == [(sum(cost for key, cost in costs.items() if key[2] == "egress"),)]
    assert shown[0][0] > 0


@pytest.mark.parametrize("preset", ["fargate", "cloud-run", "gke-autopilot"])
def test_presets_bill_the_same_in_sql(cluster: Cluster, preset: str) -> None:
    """Requests, limits and ends by a lost host, by the rules of three clouds."""
    records = [
        msgspec.structs.replace(
            record,
            cpu_request_milli=250 if number % 2 else 0, cpu_limit_milli=1000,
            mem_request=1 << 28 if number % 3 else 0, mem_limit=1 << 29,
            end_reason="host_lost" if record.kind == "final" and number % 5 == 0 else "",
        )
        for number, record in enumerate(records_of_days(7, runs=9))
    ]  # fmt: skip
    text = (PRESETS / f"{preset}.toml").read_text()
    book = parse_book(text, preset)
    sender = exporter(cluster)
    sender.send(records)
    with psycopg.connect(cluster.dsn) as connection, connection.cursor() as cursor:
        cursor.execute("SET search_path TO aruntime")
        give_book(cursor, book)
    sender.close()
    shown = cluster.query("SELECT tenant, currency, sku, cost FROM bill WHERE month = '2026-11'")
    assert {tuple(one[:3]): one[3] for one in shown} == rated(records, book)


def test_a_record_that_comes_twice_is_one_row(cluster: Cluster) -> None:
    """At least once from there, exactly once here."""
    records = of_host([msgspec.structs.replace(usage(n), seq=n + 1) for n in range(9)], "one")
    sender = exporter(cluster)
    sender.send(records[:6])
    sender.send(records[3:])
    sender.close()
    rows = cluster.query("SELECT count(*), sum(cpu_ns), sum(mem_bytens2) FROM records")
    cpu, memory = sum(r.cpu_ns for r in records), sum(r.mem_bytens2 for r in records)
    assert rows == [(9, cpu, memory)]


def test_an_older_schema_is_migrated_with_its_rows(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Version 1 had no prices; its records are billed after the step to version 2."""
    monkeypatch.setattr("aruntime_exporters.postgres.MIGRATIONS", postgres_schema.MIGRATIONS[:1])
    insert_as_before(cluster, msgspec.structs.replace(usage(1), host_id="one", seq=1))
    assert cluster.query("SELECT version FROM schema_version") == [(1,)]
    monkeypatch.undo()
    sender = exporter(cluster)
    sender.send([msgspec.structs.replace(usage(2), host_id="one", seq=2)])
    sender.close()
    assert cluster.query("SELECT max(version), count(*) FROM schema_version, records") == [(3, 6)]
    assert cluster.query("SELECT * FROM invoices") == []


def test_a_newer_schema_is_left_alone(cluster: Cluster) -> None:
    """An older daemon of a fleet that is being upgraded waits."""
    with psycopg.connect(cluster.dsn, autocommit=True) as connection:
        prepare(connection, "aruntime")
    cluster.query("INSERT INTO schema_version VALUES (99)")
    sender = exporter(cluster)
    with pytest.raises(NotDelivered, match="has version 99, this aruntime knows 3"):
        sender.send([usage(1)])
    sender.close()


def test_a_value_that_postgres_cannot_hold_is_refused(cluster: Cluster) -> None:
    """The batch is rolled back as a whole; the connection goes on."""
    sender = exporter(cluster)
    bad = msgspec.structs.replace(usage(1), labels={"nul": "\0"}, seq=1)
    good = msgspec.structs.replace(usage(2), seq=2)
    with pytest.raises(Rejected):
        sender.send([good, bad])
    assert cluster.query("SELECT count(*) FROM records") == [(0,)]
    sender.send([good])
    sender.close()
    assert cluster.query("SELECT count(*) FROM records") == [(1,)]


def test_settings_are_checked(tmp_path: Path) -> None:
    """Passwords on the command line of a database, wrong books, wrong names."""
    for options, words in (
        ({"dsn": "host=x password=y"}, "no password"),
        ({"dsn": "colour=blue"}, "dsn"),
        ({"dsn": "host=x", "schema": "a; drop"}, "schema"),
        ({"dsn": "host=x", "price_book": str(tmp_path / "none")}, "price-book: cannot read"),
        ({"dsn": "host=x", "password_file": str(tmp_path / "none")}, "cannot read a secret"),
    ):
        with pytest.raises(InvalidParameter, match=words):
            PostgresExporter("x", PostgresOptions(**options))  # type: ignore[arg-type]  # fields by name
    assert PostgresExporter("x", PostgresOptions(dsn="host=db dbname=fleet")).target == (
        "postgresql://db/fleet"
    )


def daemon_into(cluster: Cluster, busybox_tar: bytes) -> RunningDaemon:
    """A running daemon that exports to the cluster."""
    daemon = RunningDaemon()
    config = daemon.base / "config.toml"
    config.write_text(
        f'[export.postgres]\ndsn = "{cluster.dsn}"\ninterval = 0.1\nbatch = 5\n'
        "retry-min = 0.05\nretry-max = 0.2\n"
    )
    daemon.extra = [f"--config={config}"]
    daemon.start()
    daemon.load_busybox(busybox_tar)
    return daemon


def run(daemon: RunningDaemon, tenant: str, count: int = 2) -> None:
    """Run containers that use a little."""
    for _ in range(count):
        words = ["run", "--rm", "--network=none", f"--tenant={tenant}", "busybox", "sh", "-c", BURN]
        daemon.run(*words)


def sums(daemons: list[RunningDaemon]) -> dict[str, tuple[int, int, int]]:
    """CPU, memory and records by tenant, of all ledgers."""
    found: dict[str, tuple[int, int, int]] = {}
    for daemon in daemons:
        with LedgerReader(daemon.root / "ledger.db") as reader:
            for record in reader.records():
                cpu, memory, count = found.get(record.tenant, (0, 0, 0))
                found[record.tenant] = (
                    cpu + record.cpu_ns, memory + record.mem_bytens2, count + 1
                )  # fmt: skip
    return found


def fleet(cluster: Cluster) -> dict[str, tuple[int, int, int]]:
    """The same of the database."""
    try:
        rows = cluster.query(FLEET)
    except psycopg.errors.UndefinedTable:
        return {}
    return {one[0]: (int(one[1]), int(one[2]), one[3]) for one in rows}


FLEET = "SELECT tenant, sum(cpu_ns), sum(mem_bytens2), count(*) FROM records GROUP BY tenant"


def test_two_daemons_one_killed_and_replayed(own_server: Cluster, busybox_tar: bytes) -> None:
    """Daemon killed, its cursor lost, PostgreSQL killed: the sums are both ledgers'."""
    daemons: list[RunningDaemon] = []
    try:
        daemons += [daemon_into(own_server, busybox_tar), daemon_into(own_server, busybox_tar)]
        first, second = daemons
        run(first, "acme")
        run(second, "zeta")
        wait_until(lambda: len(fleet(own_server)) == 2, what="both have written")
        first.kill()
        run(second, "acme")
        own_server.kill()
        run(second, "zeta")
        shutil.rmtree(first.root / "exports")
        first.start()
        run(first, "zeta")
        own_server.start()

        whole = "the fleet's sums are the ledgers'"
        wait_until(lambda: fleet(own_server) == sums(daemons), 20, what=whole)
        states = [daemon.metric("aruntime_export_rejected_items_total") for daemon in daemons]
        assert states == [0, 0]
    finally:
        for daemon in daemons:
            daemon.destroy()
