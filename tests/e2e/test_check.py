"""check looks at leases and at the ledger too, and repairs the former while containers run."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from tests.harness import RunningDaemon

pytestmark = pytest.mark.e2e

ADDRESS = "{{.NetworkSettings.Networks.bridge.IPAddress}}"
PROBLEMS = 1


def lines(daemon: RunningDaemon, part: str, *words: str, code: int = 0) -> list[str]:
    """Run check and return what it says of one part."""
    said = daemon.run("check", *words, code=code).stdout.splitlines()
    return [line.partition(": ")[2] for line in said if line.startswith(f"{part}: ")]


def address_of(daemon: RunningDaemon, name: str) -> str:
    """Return the address of a running container."""
    return daemon.out("inspect", "-f", ADDRESS, name)


def test_each_part_is_told_to_be_clean(daemon: RunningDaemon) -> None:
    """A line each, with what was looked at."""
    daemon.run("run", "-d", "--name", "web", "busybox", "sleep", "100")
    daemon.run("run", "--rm", "busybox", "true")

    said = daemon.out("check").splitlines()

    assert [line.partition(" (")[0] for line in said] == [
        "images: clean", "addresses: clean", "ledger: clean",
    ]  # fmt: skip
    assert said[1].endswith("(1 networks, 1 leases)")
    assert said[2].startswith("ledger: clean (records 1 to ")
    assert lines(daemon, "ledger", "--fast") == ["not read, since --fast was given"]
    assert daemon.out("check", "-q") == ""


def test_leases_are_repaired_under_running_containers(daemon: RunningDaemon) -> None:
    """What the disk lost is written again before a restart gives the address to another."""
    leases = daemon.root / "networks" / daemon.bridge / "leases"
    for name in ("web", "database"):
        daemon.run("run", "-d", "--name", name, "busybox", "sleep", "100")
    web, database = (address_of(daemon, name) for name in ("web", "database"))
    stray, unreadable = leases / f"{web.rpartition('.')[0]}.77", leases / "unreadable"
    stray.symlink_to(f"{'f' * 64} ar0123456 eth0 - -")
    unreadable.write_text("")
    (leases / web).unlink()

    found = lines(daemon, "addresses", code=PROBLEMS)

    assert found == [
        f"{stray.name} of network bridge is held for container ffffffffffff, which does not exist;"
        " 'aruntime check --repair' frees it",
        f"{unreadable} is no lease: it cannot be read; 'aruntime check --repair' removes it",
        f"the lease of {web} of network bridge for container web is missing or damaged: after a"
        " restart of the daemon the address could be given to two; 'aruntime check --repair'"
        " writes it again",
        "3 problems (1 networks, 2 leases)",
    ]
    repaired = lines(daemon, "addresses", "--repair")
    assert repaired == [
        f"removed {stray}",
        f"removed {unreadable}",
        f"wrote the lease of {web} of network bridge again",
        "clean (1 networks, 2 leases)",
    ]
    daemon.kill()
    daemon.start()
    daemon.run("run", "-d", "--name", "late", "busybox", "sleep", "100")
    assert (address_of(daemon, "web"), address_of(daemon, "database")) == (web, database)
    assert address_of(daemon, "late") not in (web, database)
    assert daemon.out("check", "-q") == ""


def test_a_lease_lost_before_a_restart(daemon: RunningDaemon) -> None:
    """The container runs on with an address that nobody keeps; its restart helps, as is said."""
    daemon.run("run", "-d", "--name", "web", "busybox", "sleep", "100")
    lease = daemon.root / "networks" / daemon.bridge / "leases" / address_of(daemon, "web")
    daemon.kill()
    lease.unlink()
    daemon.start()

    found = lines(daemon, "addresses", "--repair", code=PROBLEMS)

    assert found[0].startswith("container web runs in network bridge and holds no address there: ")
    assert found[0].endswith("; 'aruntime restart web' gives it one")
    daemon.run("restart", "-t", "0", "web")
    assert daemon.out("check", "-q") == ""


def test_leases_are_clean_while_containers_come_and_go(shared_daemon: RunningDaemon) -> None:
    """A start or an end that is seen half is no problem."""
    words = ("run", "--rm", "busybox", "true")
    running = [shared_daemon.popen(*words) for _ in range(4)]
    while running:
        assert lines(shared_daemon, "addresses", "-q", "--fast") == []
        running = [one for one in running if one.poll() is None]


def rows(path: Path) -> list[tuple[object, ...]]:
    """Return the records as they are stored."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return connection.execute("SELECT * FROM records ORDER BY seq").fetchall()
    finally:
        connection.close()


def test_a_tampered_ledger_is_told_and_left_alone(daemon: RunningDaemon) -> None:
    """As 'ledger verify' finds it; --repair changes nothing of it."""
    for _ in range(3):
        daemon.run("run", "--rm", "busybox", "true")
    daemon.stop()
    path = daemon.root / "ledger.db"
    connection = sqlite3.connect(path, isolation_level=None)
    changed = "UPDATE records SET record = replace(record, 'cpu_ns\":', 'cpu_ns\":1') WHERE seq = 3"
    assert connection.execute(changed).rowcount == 1
    connection.close()
    daemon.start()
    before = rows(path)

    found = lines(daemon, "ledger", "--repair", code=PROBLEMS)

    assert found[0].startswith("record 3: it was changed: its hash is not of its content; ")
    assert found[0].endswith("keep a copy of the file as it is, and see 'aruntime ledger verify'")
    assert found[1].startswith("1 problem (records 1 to ")
    assert rows(path) == before
    assert lines(daemon, "addresses", code=PROBLEMS) == ["clean (1 networks, 0 leases)"]
