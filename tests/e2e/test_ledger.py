"""The ledger of a real daemon: what is in it, who signs it, and that nobody changes it unseen."""

from __future__ import annotations

import itertools
import json
import sqlite3
import subprocess
from pathlib import Path

import pytest

from tests.harness import RunningDaemon
from tests.traces import assert_one_line

pytestmark = pytest.mark.e2e

FAULTY = 1


def tried(daemon: RunningDaemon, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command that may fail."""
    return daemon.run(*words, code=None)


def verify(daemon: RunningDaemon, *words: str) -> subprocess.CompletedProcess[str]:
    """Run verify, whatever it finds."""
    return tried(daemon, "ledger", "verify", *words)


def records(daemon: RunningDaemon, *words: str) -> list[dict[str, object]]:
    """All records as tail shows them."""
    text = daemon.out("ledger", "tail", "-n", "all", "--format", "json", *words)
    return [json.loads(line) for line in text.splitlines()]


def live(daemon: RunningDaemon) -> None:
    """Some containers of two tenants: ended, stopped, paused."""
    daemon.run("run", "--rm", "--tenant", "acme", "--name", "short", "busybox", "true")
    daemon.run("run", "-d", "--tenant", "other", "--name", "long", "busybox", "sleep", "99")
    daemon.run("pause", "long")
    daemon.run("resume", "long")
    daemon.run("stop", "-t", "0", "long")


def test_records_of_a_life(daemon: RunningDaemon) -> None:
    """Start, pause, resume and end are in the ledger; its sums are the kernel's and /metrics'."""
    live(daemon)
    daemon.run("ledger", "checkpoint")
    found = records(daemon)
    long = [record for record in found if record["name"] == "long"]

    # A full hour cuts, too.
    kinds = [record["kind"] for record in long]
    assert (kinds[0], {*kinds[1:-1]}, kinds[-1]) == ("start", {"usage"}, "final")
    states = [state for state, _ in itertools.groupby(record["state"] for record in long)]
    assert states == ["running", "paused", "running"]
    assert long[-1]["end_reason"] == "stop"
    assert long[-1]["exit_code"] == 137
    assert [record["seq"] for record in found] == list(range(1, len(found) + 1))
    for tenant in ("acme", "other"):
        used = sum(int(str(record["cpu_ns"])) for record in found if record["tenant"] == tenant)
        shown = daemon.metric("aruntime_tenant_cpu_seconds_total", tenant=tenant)
        assert shown == used / 1e9
    kernel = int(daemon.cgroup_file("cpuacct", "cpuacct.usage"))
    assert sum(int(str(record["cpu_ns"])) for record in found) == kernel


def test_tail(daemon: RunningDaemon) -> None:
    """The last records as a table, templates, of one container or tenant, and as they come."""
    live(daemon)
    daemon.run("ledger", "checkpoint")
    table = daemon.out("ledger", "tail", "-n", "3").splitlines()

    assert table[0].split()[:4] == ["SEQ", "END", "KIND", "CONTAINER"]
    assert [line.split()[2] for line in table[1:]] == ["usage", "usage", "final"]
    assert daemon.out("ledger", "tail", "-n1", "--format", "{{.Name}} {{.Reason}}") == "long stop"
    assert {record["name"] for record in records(daemon, "--tenant", "acme")} == {"short"}
    assert {record["name"] for record in records(daemon, "long")} == {"long"}
    assert records(daemon, "--until", "1h") == []
    assert_one_line(tried(daemon, "ledger", "tail", "--since", "yesterday"), said="invalid time")
    assert_one_line(tried(daemon, "ledger", "tail", "nobody"), said="No such container")
    follower = subprocess.Popen(
        [daemon.client, "ledger", "tail", "-f", "-n1", "--format", "{{.Name}} {{.Kind}}"],
        stdout=subprocess.PIPE,
        env=daemon.env,
        text=True,
    )
    try:
        assert follower.stdout is not None
        assert follower.stdout.readline() == "long final\n"
        daemon.run("run", "--rm", "--name", "late", "busybox", "true")
        assert follower.stdout.readline() == "late start\n"
        assert follower.stdout.readline() == "late final\n"
    finally:
        follower.kill()
        follower.communicate()


def test_whole_ledger_verifies(daemon: RunningDaemon, tmp_path: Path) -> None:
    """Signed with the key beside the root, over a kill -9; exported, it verifies with that key."""
    live(daemon)
    made = json.loads(daemon.out("ledger", "checkpoint"))
    daemon.kill()
    daemon.start()
    live_again = daemon.run("run", "--rm", "busybox", "true")
    assert live_again.returncode == 0
    key = daemon.root.with_name("root.ledger.key")
    found = json.loads(verify(daemon, "--format", "json").stdout)

    assert found["OK"]
    assert found["Keys"] == [made["key"]]
    assert found["SignedUntil"] == made["seq"]
    assert key.stat().st_mode & 0o777 == 0o600
    export, kept = tmp_path / "ledger.jsonl", tmp_path / "kept.json"
    daemon.run("ledger", "export", "-o", str(export))
    kept.write_text(json.dumps(made))
    for words in ((), ("--key", f"{key}.pub"), ("--checkpoint", str(kept)), ("--key", made["key"])):
        assert verify(daemon, str(export), *words).returncode == 0
        assert verify(daemon, *words).returncode == 0
    assert_one_line(verify(daemon, "--key", str(export)), said="is no Ed25519 key")
    assert_one_line(verify(daemon, str(kept)), said="is no exported ledger")
    assert verify(daemon, "--key", "0" * 64).returncode == FAULTY
    assert len(daemon.out("ledger", "export", "--format", "csv").splitlines()) == found["Last"] + 1


TAMPERING = {
    "changed": ("UPDATE records SET record = replace(record, 'cpu_ns\":', 'cpu_ns\":1') "
                "WHERE seq = 3", "ledger: record 3: it was changed"),
    "tail deleted": ("DELETE FROM records WHERE seq > 4", "missing at the end"),
    "middle deleted": ("DELETE FROM records WHERE seq = 3", "ledger: record 3: missing"),
    "swapped": ("UPDATE records SET (record, hash) = (SELECT other.record, other.hash FROM records "
                "AS other WHERE other.seq = 5 - records.seq) WHERE seq IN (2, 3)",
                "ledger: record 2: record 3 is in its place"),
    "checkpoint unsigned": ("UPDATE checkpoints SET checkpoint = json_set(checkpoint, '$.key', '')",
                            "ledger: checkpoint 1: is not signed"),
}  # fmt: skip


def test_tampering_is_found(daemon: RunningDaemon) -> None:
    """Whatever is changed in the file, verify names it and ends with 1."""
    live(daemon)
    kept = daemon.out("ledger", "checkpoint")
    daemon.stop()
    path = daemon.root / "ledger.db"
    whole = path.read_bytes()
    for name, (statement, said) in TAMPERING.items():
        path.write_bytes(whole)
        connection = sqlite3.connect(path, isolation_level=None)
        assert connection.execute(statement).rowcount > 0, name
        connection.close()
        daemon.start()
        done = verify(daemon)
        daemon.stop()

        assert done.returncode == FAULTY, name
        assert said in done.stderr, name
        assert done.stderr.startswith("aruntime: ledger: "), name
    path.write_bytes(whole)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("DELETE FROM records WHERE seq > 3")
    connection.execute("DELETE FROM checkpoints")
    connection.execute("DELETE FROM state WHERE key = 'head'")
    connection.close()
    (daemon.base / "kept.json").write_text(kept)
    daemon.start()
    found = verify(daemon, "--checkpoint", str(daemon.base / "kept.json"))

    assert found.returncode == FAULTY
    assert "kept elsewhere: is not in the ledger" in found.stderr
