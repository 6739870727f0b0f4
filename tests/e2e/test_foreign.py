"""A daemon that meters cgroups made by others: plain ones made here, to the nanosecond."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from aruntime.metering.ledger_reader import LedgerReader
from aruntime.metering.record import LedgerRecord
from tests.harness import RunningDaemon, wait_until

CGROUPS = Path("/sys/fs/cgroup")
TREES = ("cpuacct", "memory", "pids", "freezer", "unified")
BURN = "import time; end = time.process_time() + {}\nwhile time.process_time() < end: pass"
SLACK_NS = 1_000_000
"""A task that is off its cgroup's list is charged for its last steps: some microseconds."""


class Batch:
    """Plain cgroups of a test below a parent of its own, in some hierarchies."""

    def __init__(self, path: str, trees: tuple[str, ...] = TREES) -> None:
        self.path = path
        self.trees = [tree for tree in trees if (CGROUPS / tree).is_dir()]
        for tree in self.trees:
            self.directory("", tree).mkdir()

    def directory(self, name: str, tree: str = "cpuacct") -> Path:
        """Directory of a group, or of the parent."""
        return CGROUPS / tree / self.path.strip("/") / name

    def make(self, name: str) -> None:
        """Make a group."""
        for tree in self.trees:
            self.directory(name, tree).mkdir()

    def remove(self, name: str) -> None:
        """Remove a group without processes; one that has just ended may need a moment."""
        for tree in self.trees:
            wait_until(partial(_removed, self.directory(name, tree)), what=name)

    def start(self, name: str, program: str) -> subprocess.Popen[bytes]:
        """Start a Python program in a group."""
        paths = [str(self.directory(name, tree) / "cgroup.procs") for tree in self.trees]
        join = f"for path in {paths!r}: open(path, 'w').write('0')\n"
        return subprocess.Popen([sys.executable, "-S", "-c", join + program])

    def usage(self, name: str = "") -> int:
        """CPU time in nanoseconds of a group, or of all of them, removed ones included."""
        return int((self.directory(name) / "cpuacct.usage").read_text())

    def close(self) -> None:
        """Remove what is left."""
        for tree in self.trees:
            with contextlib.suppress(FileNotFoundError):
                for entry in self.directory("", tree).iterdir():
                    if entry.is_dir():
                        self.remove(entry.name)
                self.directory("", tree).rmdir()


def _removed(directory: Path) -> bool:
    try:
        directory.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def batch() -> Iterator[Batch]:
    """Yield a parent for plain groups."""
    made = Batch(f"/aruntime-test-{os.getpid()}-batch")
    yield made
    made.close()


@pytest.fixture(scope="module")
def metering(batch: Batch) -> Iterator[RunningDaemon]:
    """Yield a daemon that meters the groups of the batch."""
    daemon = RunningDaemon()
    daemon.extra = flags(batch)
    daemon.start()
    yield daemon
    daemon.extra = []
    daemon.destroy()


@pytest.fixture
def own_metering(batch: Batch) -> Iterator[RunningDaemon]:
    """Yield a daemon as ``metering``, which a test may kill and start again."""
    daemon = RunningDaemon()
    daemon.extra = flags(batch)
    daemon.start()
    yield daemon
    daemon.extra = []
    daemon.destroy()


def flags(batch: Batch, poll_seconds: float = 0.2) -> list[str]:
    """Flags of a daemon that meters the groups of the batch."""
    poll = f"--poll-interval={poll_seconds}"
    return [f"--meter-cgroups={batch.path}/*", poll, "--slow-interval=1"]


def has_ended(daemon: RunningDaemon, batch: Batch, name: str) -> bool:
    """Whether /metrics shows the end of a group, and its last record is on disk."""
    family = "aruntime_container_finished_timestamp_seconds"
    return shown(daemon, batch, name, family) > 0 and any(
        record.kind == "final" for record in records(daemon, name)
    )


def shown(daemon: RunningDaemon, batch: Batch, name: str, metric: str, **labels: str) -> float:
    """A sample of a group on /metrics, -1 if there is none."""
    return sample(daemon, metric, name=f"{batch.path.strip('/')}/{name}", **labels)


def sample(daemon: RunningDaemon, metric: str, **labels: str) -> float:
    """A sample of /metrics, -1 if there is none."""
    try:
        return daemon.metric(metric, **labels)
    except AssertionError:
        return -1


def records(daemon: RunningDaemon, name: str) -> list[LedgerRecord]:
    """Records of the ledger of a group."""
    with LedgerReader(daemon.root / "ledger.db") as reader:
        return [record for record in reader.records() if record.name.endswith(f"/{name}")]


def unread(daemon: RunningDaemon) -> float:
    """How many groups went without a last reading."""
    return max(0, sample(daemon, "aruntime_meter_anomalies_total", kind="unread_cgroup"))


def cycles(daemon: RunningDaemon) -> float:
    """Cycles of readings since the daemon's start."""
    return sample(daemon, "aruntime_poll_duration_seconds_count")


def cpu_shown(daemon: RunningDaemon, batch: Batch, name: str) -> int:
    """CPU time of a group on /metrics, in nanoseconds, -1 if it is not there."""
    family = "aruntime_container_cpu_usage_seconds_total"
    return round(max(-1e-9, shown(daemon, batch, name, family)) * 1e9)


def test_a_group_is_metered_from_its_beginning_to_its_end(
    batch: Batch, metering: RunningDaemon
) -> None:
    """CPU time of several processes in turn is the kernel's own, and stays when it is removed."""
    before = unread(metering)
    batch.make("job")
    wait_until(lambda: "batch" in metering.metrics(), what="the group is shown")
    for _ in range(2):
        assert batch.start("job", BURN.format(0.15)).wait() == 0
    used = batch.usage("job")
    wait_until(lambda: abs(cpu_shown(metering, batch, "job") - used) < SLACK_NS, what="read")
    # That may have been a reading in turn: the one after the end of the process comes beside it.
    enough = cycles(metering) + 3
    wait_until(lambda: cycles(metering) >= enough, what="some cycles")
    used = batch.usage("job")
    batch.remove("job")
    wait_until(lambda: has_ended(metering, batch, "job"), what="its end")
    found = records(metering, "job")
    assert sum(record.cpu_ns for record in found) == cpu_shown(metering, batch, "job")
    assert 0 <= used - cpu_shown(metering, batch, "job") < SLACK_NS
    assert [reason for record in found for reason in record.estimated] == []
    assert (found[-1].kind, found[-1].end_reason) == ("final", "exit")
    assert found[-1].labels["aruntime.engine"] == "cgroup"
    assert found[-1].labels["aruntime.cgroup"] == f"{batch.path}/job"
    assert unread(metering) == before
    assert metering.out("ps", "-aq") == ""


def test_short_ones_are_whole_or_counted_as_unread(batch: Batch, metering: RunningDaemon) -> None:
    """Ten that live for a moment: none is lost silently, none doubled."""
    before = unread(metering)
    exact: dict[str, int] = {}
    for number in range(10):
        name = f"short{number}"
        batch.make(name)
        assert batch.start(name, BURN.format(0.02) if number % 2 else "pass").wait() == 0
        exact[name] = batch.usage(name)
        batch.remove(name)
    wait_until(lambda: all(has_ended(metering, batch, name) for name in exact), what="all ends")
    lost = 0
    for name, used in exact.items():
        metered = sum(record.cpu_ns for record in records(metering, name))
        assert metered <= used
        flagged = any("removed_unread" in record.estimated for record in records(metering, name))
        assert flagged or used - metered < SLACK_NS, name
        lost += flagged
    assert lost <= unread(metering) - before


def test_gone_before_anybody_looked(batch: Batch, metering: RunningDaemon) -> None:
    """Made and removed at once: it is counted that there was one of which nothing is known."""
    before = unread(metering)
    for _ in range(20):
        batch.make("flash")
        batch.remove("flash")
    wait_until(lambda: unread(metering) > before, what="counted")
    wait_until(lambda: has_ended(metering, batch, "flash"), what="its end")
    finals = [record for record in records(metering, "flash") if record.kind == "final"]
    assert finals
    assert all(record.cpu_ns == 0 for record in finals)
    assert any("removed_unread" in record.estimated for record in finals)


def test_killed_daemon_goes_on_exactly(batch: Batch, own_metering: RunningDaemon) -> None:
    """A group that runs through a kill -9, one that begins in the gap, one that ends in it."""
    batch.make("through")
    batch.make("ends")
    through = batch.start("through", BURN.format(1.0))
    ends = batch.start("ends", BURN.format(0.3))
    for name in ("through", "ends"):
        wait_until(partial(is_shown, own_metering, batch, name), what=name)
    own_metering.kill()
    assert ends.wait() == 0
    used_by_ended = batch.usage("ends")
    batch.remove("ends")
    batch.make("begins")
    assert batch.start("begins", BURN.format(0.1)).wait() == 0
    own_metering.start()
    assert through.wait() == 0
    for name in ("through", "begins"):
        exact = batch.usage(name)
        wait_until(partial(has_caught_up, own_metering, batch, name, exact), what=f"{name} is read")
        batch.remove(name)
        wait_until(partial(has_ended, own_metering, batch, name), what=f"the end of {name}")
        found = records(own_metering, name)
        assert 0 <= exact - sum(record.cpu_ns for record in found) < SLACK_NS
        assert any("daemon_gap" in record.estimated for record in found)
    lost = records(own_metering, "ends")
    assert sum(record.cpu_ns for record in lost) <= used_by_ended
    assert (lost[-1].kind, lost[-1].estimated) == ("final", ("removed_unread",))
    total = own_metering.metric("aruntime_tenant_cpu_seconds_total", tenant="default") * 1e9
    assert total <= batch.usage() + SLACK_NS


def is_shown(daemon: RunningDaemon, batch: Batch, name: str) -> bool:
    """Whether /metrics has CPU time of a group."""
    return cpu_shown(daemon, batch, name) > 0


def has_caught_up(daemon: RunningDaemon, batch: Batch, name: str, used: int) -> bool:
    """Whether /metrics shows so much CPU time of a group, but for a task's last steps."""
    return used - cpu_shown(daemon, batch, name) < SLACK_NS


def test_what_was_used_before_is_not_billed(batch: Batch) -> None:
    """A group older than its metering begins with what its counters show; a restart keeps that."""
    batch.make("old")
    assert batch.start("old", BURN.format(0.2)).wait() == 0
    before = batch.usage("old")
    daemon = RunningDaemon()
    daemon.extra = flags(batch)
    daemon.start()
    try:
        assert cpu_shown(daemon, batch, "old") == 0
        assert batch.start("old", BURN.format(0.1)).wait() == 0
        grown = batch.usage("old") - before
        wait_until(lambda: grown - cpu_shown(daemon, batch, "old") < SLACK_NS, what="growth")
        daemon.stop()
        daemon.start()
        assert abs(cpu_shown(daemon, batch, "old") - grown) < SLACK_NS
        batch.remove("old")
        wait_until(lambda: has_ended(daemon, batch, "old"), what="its end")
        assert 0 <= grown - cpu_shown(daemon, batch, "old") < SLACK_NS
    finally:
        daemon.extra = []
        daemon.destroy()


def test_a_frozen_group_is_paused(batch: Batch, metering: RunningDaemon) -> None:
    """Somebody else's freeze is noticed with the slow readings, and so is its end."""
    batch.make("cold")
    sleeper = batch.start("cold", "import time; time.sleep(60)")

    def is_in(state: str) -> bool:
        return shown(metering, batch, "cold", "aruntime_container_state", state=state) == 1

    try:
        wait_until(
            lambda: shown(metering, batch, "cold", "aruntime_container_pids") == 1, what="its pid"
        )
        frozen = batch.directory("cold", "freezer") / "freezer.state"
        frozen.write_text("FROZEN")
        try:
            wait_until(lambda: is_in("paused"), what="paused")
        finally:
            frozen.write_text("THAWED")
        wait_until(lambda: is_in("running"), what="running")
        assert shown(metering, batch, "cold", "aruntime_container_pauses_total") == 1
    finally:
        sleeper.kill()
        sleeper.wait()


def test_nothing_is_written_into_a_foreign_group(batch: Batch, metering: RunningDaemon) -> None:
    """Not a limit, not a process, not a block rule: every file says what it said before."""
    batch.make("still")
    watched = ("cgroup.procs", "pids.max", "memory.limit_in_bytes", "freezer.state", "tasks")

    def content() -> dict[str, str]:
        files = [batch.directory("still", tree) / name for tree in batch.trees for name in watched]
        return {str(path): path.read_text() for path in files if path.exists()}

    def polled() -> float:
        return shown(metering, batch, "still", "aruntime_container_last_poll_timestamp_seconds")

    before = content()
    wait_until(lambda: polled() > 0, what="shown")
    first = polled()
    wait_until(lambda: polled() > first + 1.5, what="a slow reading")
    assert content() == before


def test_metering_ends_when_a_daemon_starts_without_it(batch: Batch) -> None:
    """Usage of a time without the pattern belongs to nobody, also if the pattern comes back."""
    daemon = RunningDaemon()
    daemon.extra = flags(batch)
    daemon.start()
    try:
        daemon.stop()
        daemon.extra = []
        daemon.start()
        daemon.stop()
        batch.make("between")
        assert batch.start("between", BURN.format(0.1)).wait() == 0
        daemon.extra = flags(batch)
        daemon.start()
        wait_until(lambda: cpu_shown(daemon, batch, "between") >= 0, what="shown")
        assert cpu_shown(daemon, batch, "between") == 0
    finally:
        daemon.extra = []
        daemon.destroy()


@pytest.mark.parametrize("wrong", [["--meter-cgroups=docker"], ["--meter-state=lxc=/x"]])
def test_wrong_flags_are_refused(wrong: list[str]) -> None:
    """The daemon says which flag and how it should be, and does not start."""
    daemon = RunningDaemon()
    try:
        done = subprocess.run(
            [daemon.program, f"--root={daemon.root}", f"--run-dir={daemon.run_dir}", *wrong],
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert done.returncode == 125
        assert wrong[0].partition("=")[0] in done.stderr
        assert len(done.stderr.splitlines()) == 1
    finally:
        daemon.base.rmdir()


def test_an_end_does_not_wait_for_a_poll(batch: Batch, own_metering: RunningDaemon) -> None:
    """The end is read and committed at once, not with the next poll."""
    own_metering.stop()
    own_metering.extra = flags(batch, poll_seconds=30)
    own_metering.start()
    batch.make("quick")
    assert batch.start("quick", BURN.format(0.05)).wait() == 0
    used = batch.usage("quick")
    begun = time.monotonic()
    wait_until(
        lambda: used - cpu_shown(own_metering, batch, "quick") < SLACK_NS, 5, "read at its end"
    )
    batch.remove("quick")
    wait_until(lambda: has_ended(own_metering, batch, "quick"), what="its end")
    assert time.monotonic() - begun < 15


@pytest.fixture
def confined(batch: Batch, tmp_path: Path) -> Iterator[RunningDaemon]:
    """Yield a daemon with the rights that deploy/ gives a meter in a container."""
    daemon = RunningDaemon()
    program = tmp_path / "aruntimed"
    kept = "--bounding-set=-all,+sys_ptrace,+dac_read_search"
    program.write_text(f'#!/bin/sh\nexec /usr/bin/setpriv {kept} {daemon.program} "$@"\n')
    program.chmod(0o755)
    daemon.program = str(program)
    daemon.start(*flags(batch))
    yield daemon
    daemon.destroy()


def test_two_capabilities_are_enough(confined: RunningDaemon, batch: Batch) -> None:
    """Without rights over the network there is no bridge, no table, and all the metering."""
    batch.make("confined")
    assert batch.start("confined", BURN.format(0.1)).wait() == 0
    used = batch.usage("confined")
    wait_until(lambda: has_caught_up(confined, batch, "confined", used), what="all of it is shown")
    batch.remove("confined")
    assert "there is no bridge" in confined.out("info")
    assert not Path("/sys/class/net", confined.bridge).exists()
    assert '"level": "error"' not in confined.log
