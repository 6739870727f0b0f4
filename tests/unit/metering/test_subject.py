"""Single subjects and polling cycles: schedules, failures of a source, short descriptors."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from aruntime.cgroups.driver import Driver
from aruntime.metering import sampler
from aruntime.metering.account import Ints
from aruntime.metering.clock import WallClock, boottime_ns
from aruntime.metering.cutting import Cutter
from aruntime.metering.health import Health
from aruntime.metering.integrals import begin
from aruntime.metering.readers import Access
from aruntime.metering.subject import (
    BRIEF_READINGS,
    SLOW_READ_NS,
    MeterSubject,
    NetworkRead,
    Subject,
)
from aruntime.metering.terms import terms_of
from tests.metering import CounterTree

SECOND = 1_000_000_000


def subject(
    counters: CounterTree,
    health: Health,
    *,
    name: str = "a",
    is_kept: bool = True,
    network: NetworkRead | None = None,
) -> Subject:
    """A registered container that has not been read yet."""
    cgroup = counters.add(name)
    driver: Driver = counters.driver
    access = Access(partial(driver.open_reader, cgroup), is_kept)
    account = begin(None, "boot:1", boottime_ns(), is_new=True)
    about = MeterSubject(id=name, name=name, cgroup=cgroup)
    cuts = Cutter(name, terms_of(about), WallClock.now().at)
    return Subject(about, account, access, cuts=cuts, health=health, cores=1000, network=network)


def open_files() -> int:
    """Descriptors of this process that lead to counter files."""
    targets = []
    for entry in os.listdir("/proc/self/fd"):
        try:
            targets.append(os.readlink(f"/proc/self/fd/{entry}"))
        except FileNotFoundError:
            continue  # the descriptor of the listing
    return sum("/cgroup/" in target for target in targets)


def test_nothing_is_open_before_the_first_reading(counters: CounterTree) -> None:
    """Registering costs no descriptor; reading keeps them; releasing closes them."""
    health = Health()
    known = subject(counters, health)
    before = open_files()
    known.sample(slow=True)
    reading = open_files()
    known.release()

    assert (before, open_files()) == (0, 0)
    assert reading > 5
    assert not known.is_live
    assert not known.sample(slow=False)


def test_unkept_reader_is_opened_for_each_reading(counters: CounterTree) -> None:
    """Where descriptors are short readings work and leave nothing open."""
    known = subject(counters, Health(), is_kept=False)
    for more in (5, 7):
        counters.use("a", cpu_ns=more)
        known.sample(slow=more == 7)

        assert open_files() == 0
    assert known.account.totals.cpu_ns == 12


def test_full_descriptor_table_is_told_and_healed(
    counters: CounterTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that cannot be opened is an error of this cycle; the next one counts it all."""
    health = Health()
    known = subject(counters, health)
    counters.use("a", cpu_ns=5)

    def refuse(*_: object, **__: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), "cpuacct.usage")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        assert sampler.tick([known], slow_interval_ns=SECOND, health=health) == []
    assert health.polls_failed == {"cpuacct": 1}
    assert sampler.tick([known], slow_interval_ns=SECOND, health=health) == [known]
    assert known.account.totals.cpu_ns == 5
    known.release()


def test_network_failure_costs_only_the_network(counters: CounterTree) -> None:
    """When interfaces cannot be read, CPU time is still counted and the failure told."""
    rows: list[Mapping[str, Ints] | None] = [{"eth0": (1, 2, 3, 4, 5, 6)}, None]

    def read(_: str) -> Mapping[str, Ints] | None:
        if not rows:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        return rows.pop(0)

    health = Health()
    known = subject(counters, health, network=read)
    for _ in range(3):
        counters.use("a", cpu_ns=1)
        known.sample(slow=True)
    known.release()

    assert known.account.totals.cpu_ns == 3
    assert known.account.totals.network == {"eth0": (1, 2, 3, 4, 5, 6)}
    assert health.polls_failed == {"network": 1}


def test_slow_readings_keep_their_schedule(counters: CounterTree) -> None:
    """A complete reading comes first, then once per slow interval, quick ones in between."""
    health = Health()
    known = subject(counters, health)
    complete = [
        bool(sampler.tick([known], slow_interval_ns=3600 * SECOND, health=health)) for _ in range(3)
    ]
    known.slow_due_ns = boottime_ns()
    complete.append(bool(sampler.tick([known], slow_interval_ns=3600 * SECOND, health=health)))
    complete.append(bool(sampler.tick([known], slow_interval_ns=3600 * SECOND, health=health)))
    known.release()

    assert complete == [True, False, False, True, False]


def write_pids(counters: CounterTree, name: str, number: int) -> None:
    """Change what only a complete reading reads, and nothing else."""
    directory = counters.driver.cgroup(name).directories["pids"]
    Path(directory, "pids.current").write_text(f"{number}\n")


def pids_of(known: Subject) -> int:
    """As shown."""
    assert known.stats is not None
    assert known.stats.pids is not None
    return known.stats.pids.current


def test_a_cgroup_that_stands_still_is_read_once_a_minute(counters: CounterTree) -> None:
    """Its billed numbers go on every time; the rest is read again after some readings."""
    known = subject(counters, Health())
    clock = count(boottime_ns(), SECOND)
    seen = []
    counters.set("a", memory=100)
    for number in range(2 * BRIEF_READINGS + 3):
        write_pids(counters, "a", number)
        assert known.sample(slow=True, brief=True, clock=lambda: next(clock))
        seen.append(pids_of(known))
    known.release()
    each = BRIEF_READINGS + 1

    assert seen == [number // each * each for number in range(len(seen))]
    assert known.account.span.samples == len(seen)
    assert known.account.totals.memory_bytens2 > 190 * 2 * SECOND * (len(seen) - 1)


@pytest.mark.parametrize(
    "change",
    [
        lambda known, counters: counters.use("a", cpu_ns=1),
        lambda known, counters: counters.use("a", page_faults=1),
        lambda known, counters: counters.use("a", inactive_file=1),
        lambda known, counters: known.change("paused", boottime_ns()),
        lambda known, counters: known.describe(known.about, known.cuts.terms),
    ],
    ids=["cpu", "memory.stat", "billed memory", "state", "limits"],
)
def test_whatever_moves_has_everything_read(
    counters: CounterTree, change: Callable[[Subject, CounterTree], None]
) -> None:
    """A change by its processes, by others, by the supervisor."""
    known = subject(counters, Health())
    known.sample(slow=True)
    write_pids(counters, "a", 7)
    known.sample(slow=True, brief=True)
    before = pids_of(known)
    change(known, counters)
    write_pids(counters, "a", 7)
    known.sample(slow=True, brief=True)
    known.release()

    assert (before, pids_of(known)) == (1, 7)


def test_forced_readings_are_never_brief(counters: CounterTree) -> None:
    """Who asks for everything gets it."""
    known = subject(counters, Health())
    known.sample(slow=True)
    write_pids(counters, "a", 7)
    sampler.sample_now(known, Health())
    known.release()

    assert pids_of(known) == 7


def test_the_network_is_read_of_a_cgroup_that_stands_still(counters: CounterTree) -> None:
    """Packets come without a process doing anything."""
    rows: list[Mapping[str, Ints]] = [{"eth0": (number, 0, 0, 0, 0, 0)} for number in (1, 5, 9)]
    known = subject(counters, Health(), network=lambda _: rows.pop(0))
    for _ in range(3):
        known.sample(slow=True, brief=True)
    known.release()

    assert known.account.totals.network == {"eth0": (9, 0, 0, 0, 0, 0)}


def test_missed_slow_readings_are_not_made_up(counters: CounterTree) -> None:
    """After a long pause of the machine one complete reading is taken, not many."""
    health = Health()
    known = subject(counters, health)
    known.slow_due_ns = 1
    sampler.tick([known], slow_interval_ns=SECOND, health=health)
    known.release()

    assert known.slow_due_ns > boottime_ns()


def test_reading_over_a_pause_of_the_machine_is_flagged(counters: CounterTree) -> None:
    """A reading that took longer than a machine takes is an anomaly."""
    health = Health()
    known = subject(counters, health)
    ticks = count(boottime_ns(), SLOW_READ_NS + 1)
    known.sample(slow=False, clock=lambda: next(ticks))
    known.release()

    assert health.anomalies["slow_read"] == 1


def test_cycle_counts_itself(counters: CounterTree) -> None:
    """A cycle is timed, and says when it was."""
    health = Health()
    known = subject(counters, health)
    sampler.cycle([known], SECOND, health)
    sampler.cycle([known], SECOND, health)
    known.release()

    assert sum(health.poll_duration.state().counts) == 2
    assert health.last_poll_ns > 0


def test_whether_an_ended_cgroup_stands_still(counters: CounterTree) -> None:
    """Only what was read completely, by a reader that is kept, can be known to stand still."""
    health = Health()
    known, unkept = subject(counters, health), subject(counters, health, name="b", is_kept=False)
    before = known.stands_still()
    for each in (known, unkept):
        each.finish(process=None)
    still = known.stands_still(), unkept.stands_still()
    counters.use("a", cpu_ns=SECOND)
    moved = known.stands_still()
    known.release()

    assert (before, still, moved) == (False, (True, False), False)


def test_vanished_cgroup_is_no_sample(counters: CounterTree, tmp_path: Path) -> None:
    """A cgroup that is gone before it was ever read ends without an error."""
    health = Health()
    known = subject(counters, health)
    for directory in counters.driver.cgroup("a").directories.values():
        Path(directory).rename(tmp_path / f"gone-{Path(directory).parent.parent.name}")

    assert not known.sample(slow=True)
    known.finish(process=None)
    known.release()

    assert known.account.status == "exited"
    assert sum(health.polls_failed.values()) == 0


@pytest.mark.parametrize(
    ("error", "controller"),
    [
        (OSError(5, "x", "memory.stat"), "memory"),
        (OSError(5, "x", "/sys/fs/cgroup/blkio/a/blkio.throttle.io_serviced"), "blkio"),
        (OSError(5, "x", "/proc/7/io"), "process"),
        (ValueError("x"), "unknown"),
    ],
)
def test_errors_name_their_controller(error: OSError | ValueError, controller: str) -> None:
    """The metric's label comes from the file that failed."""
    assert sampler.controller_of(error) == controller
