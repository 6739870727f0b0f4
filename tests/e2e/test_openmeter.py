"""Usage as events to a real receiver: what arrives adds up to the ledger, whatever is killed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import pytest

from aruntime.metering.ledger_reader import LedgerReader
from aruntime.metering.quantities import quantities
from aruntime.metering.record import LedgerRecord
from tests.harness import RunningDaemon, wait_until
from tests.receiver import Event, Receiver
from tests.registries import free_port

BURN = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"
CONFIGURATION = """
[export.meters]
type = "openmeter"
url = "{url}"
interval = 0.1
batch = 7
retry-min = 0.05
retry-max = 0.2
"""


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    """Yield a receiver that is not started."""
    made = Receiver(free_port(), tmp_path / "events")
    yield made
    if made.process is not None:
        made.kill()


@pytest.fixture
def exporting(receiver: Receiver, busybox_tar: bytes) -> Iterator[RunningDaemon]:
    """Yield a daemon that exports to the receiver, which need not run."""
    daemon = RunningDaemon()
    config = daemon.base / "config.toml"
    config.write_text(CONFIGURATION.format(url=receiver.url))
    daemon.extra = [f"--config={config}"]
    daemon.start()
    daemon.load_busybox(busybox_tar)
    yield daemon
    daemon.destroy()


def run(daemon: RunningDaemon, count: int, *flags: str) -> None:
    """Run containers that use a little."""
    for _ in range(count):
        daemon.run("run", "--rm", "--network=none", *flags, "busybox", "sh", "-c", BURN)


def records(daemon: RunningDaemon) -> list[LedgerRecord]:
    """All records of the daemon's ledger."""
    with LedgerReader(daemon.root / "ledger.db") as reader:
        return list(reader.records())


def used(found: Iterable[LedgerRecord]) -> dict[tuple[str, str], Fraction]:
    """Exact sums by container and measure; what is zero is left out."""
    sums: dict[tuple[str, str], Fraction] = defaultdict(Fraction)
    for record in found:
        for name, value in quantities(record).items():
            if value:
                sums[record.container_id, name] += value
    return dict(sums)


def arrived(events: Iterable[Event]) -> dict[tuple[str, str], Fraction]:
    """The same of events."""
    sums: dict[tuple[str, str], Fraction] = defaultdict(Fraction)
    for event in events:
        data = event["data"]
        sums[data["container_id"], data["sku"]] += Fraction(data["quantity"])
    return dict(sums)


def is_done(daemon: RunningDaemon) -> bool:
    """Whether everything the ledger has was acknowledged."""
    last = records(daemon)[-1].seq
    return daemon.metric("aruntime_export_sequence", exporter="meters") >= last


def test_every_event_once_whoever_is_killed(exporting: RunningDaemon, receiver: Receiver) -> None:
    """Receiver down, killed before it answers, killed and started again; the daemon killed too."""
    run(exporting, 3, "--tenant=acme")
    failures = "aruntime_export_errors_total"
    wait_until(lambda: exporting.metric(failures, exporter="meters") > 0, what="it is missed")
    receiver.start("forgetful")
    receiver.wait()
    stored = len(receiver.events())
    assert stored
    receiver.start()
    run(exporting, 3, "--tenant=zeta")
    receiver.kill()
    run(exporting, 2)
    exporting.kill()
    receiver.start("busy")
    exporting.start()
    run(exporting, 2)
    wait_until(lambda: is_done(exporting), 30, what="all is acknowledged")
    assert len(receiver.events()) >= len(receiver.distinct()) + stored, "no event came twice"
    assert arrived(receiver.distinct().values()) == used(records(exporting))
    subjects = {event["subject"] for event in receiver.events()}
    assert subjects == {"acme", "zeta", "default"}
    assert all(len(each["id"]) == 32 for each in receiver.events())
    types = {headers["content-type"] for headers in receiver.requests()}
    assert types == {"application/cloudevents-batch+json"}
    shown = exporting.out(
        "info", "--format", "{{.Exporters.meters.Pending}} {{.Exporters.meters.Target}}"
    )
    assert shown == f"0 {receiver.url}"


def test_what_a_stopping_daemon_cuts_is_sent(exporting: RunningDaemon, receiver: Receiver) -> None:
    """The last records of an orderly stop are delivered before the daemon ends."""
    receiver.start()
    exporting.run("run", "-d", "--network=none", "--name=stays", "busybox", "sleep", "600")
    exporting.stop()
    assert arrived(receiver.distinct().values()) == used(records(exporting))
    assert any(record.end_reason == "daemon_stop" for record in records(exporting))


def test_refused_events_are_counted_and_kept(exporting: RunningDaemon, receiver: Receiver) -> None:
    """One tenant's events are refused: they are counted and kept, the others' arrive."""
    receiver.start("strict")
    run(exporting, 1, "--tenant=refused")
    run(exporting, 2, "--tenant=acme")
    wait_until(lambda: is_done(exporting), 30, what="all is passed by")
    found = records(exporting)
    kept = (exporting.root / "exports/meters.rejected").read_text().splitlines()
    rejected = exporting.metric("aruntime_export_rejected_items_total", exporter="meters")
    assert rejected == len(kept) > 0
    assert "no such subject" in kept[0]
    of_others = [record for record in found if record.tenant != "refused"]
    assert arrived(receiver.distinct().values()) == used(of_others)
