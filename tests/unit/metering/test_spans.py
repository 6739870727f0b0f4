"""How time is split into running and paused, and what becomes of a gap nobody watched."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from aruntime.metering.account import COUNTERS, Reading
from aruntime.metering.integrals import begin, bridge_gap, flag_estimate, transition
from tests.metering import START, ZERO, fresh, take

durations = st.integers(0, 3_600_000_000_000)
samples = st.lists(st.tuples(durations, st.integers(0, 1 << 45)), min_size=1, max_size=10)


statuses = st.sampled_from(("running", "pausing", "paused"))


@given(st.lists(st.tuples(durations, statuses), max_size=10), samples)
def test_pause_changes_nothing_but_the_split(
    changes: list[tuple[int, str]], samples: list[tuple[int, int]]
) -> None:
    """Running + paused is the whole span; the memory integral does not see pauses."""
    at = list(itertools.accumulate((span for span, _ in samples), initial=START))[1:]
    seen = [Reading(now, 0, size) for now, (_, size) in zip(at, samples, strict=True)]
    events: list[tuple[int, Reading | str]] = [(reading.boot_ns, reading) for reading in seen]
    end = seen[-1].boot_ns
    moment = START
    for span, status in changes:
        moment += span
        if moment <= end:
            events.append((moment, status))
    plain = take(fresh(), *seen)
    account = fresh()
    for now, event in sorted(events, key=lambda item: item[0]):
        if isinstance(event, str):
            account = transition(account, event, now)
            continue
        account = take(account, event)

    assert end - START == account.totals.running_ns + account.totals.paused_ns
    assert plain.totals.memory_bytens2 == account.totals.memory_bytens2


def test_paused_time_runs_from_frozen_to_thaw() -> None:
    """Freezing is running; pauses are counted once each."""
    account = transition(fresh(), "pausing", START + 5)
    account = transition(account, "paused", START + 7)
    account = transition(account, "paused", START + 8)
    account = transition(account, "running", START + 20)
    account = transition(account, "exited", START + 30)

    assert (
        account.totals.paused_ns,
        account.totals.running_ns,
        account.totals.pauses,
    ) == (13, 17, 1)


def test_created_time_is_neither_running_nor_paused() -> None:
    """Nothing is counted before the program runs, and nothing after the end."""
    account = begin(None, "boot:1", START, is_new=True)
    account = transition(account, "running", START + 100)
    account = transition(account, "exited", START + 150)
    account = transition(account, "exited", START + 900)

    assert account.totals.running_ns == 50


@given(st.lists(st.integers(-(10**15), 10**15), max_size=8))
def test_time_never_runs_backwards(jumps: list[int]) -> None:
    """Readings stamped out of order never give negative time, memory or usage."""
    account = fresh()
    latest = START
    for jump in jumps:
        account = take(account, Reading(START + jump, 0, 1000))
        latest = max(latest, START + jump)

        assert latest - START == account.totals.running_ns
        assert 0 <= account.totals.memory_bytens2 <= 2000 * (latest - START)


def test_gap_is_split_by_the_kernels_frozen_time() -> None:
    """Time frozen while no daemon lived is paused time, and memory of the gap is flagged."""
    counters = tuple(3 if name == "frozen_us" else 0 for name in COUNTERS)
    reading = Reading(START + 10_000, 0, 0, counters)
    account = bridge_gap(fresh(), reading, "running", START)

    assert (account.totals.paused_ns, account.totals.running_ns) == (3000, 7000)
    assert account.estimated == ("daemon_gap",)
    assert account.estimated == flag_estimate(account, "daemon_gap").estimated


def test_gap_without_frozen_time_belongs_to_the_old_status() -> None:
    """Without a cgroup2 tree the status of the last look counts for the whole gap."""
    unknown = tuple(None for _ in COUNTERS)
    reading = Reading(START + 10, 0, 0, unknown)
    paused = transition(fresh(), "paused", START)
    account = bridge_gap(paused, reading, "running", START)

    assert (
        account.totals.paused_ns,
        account.totals.running_ns,
        account.status,
    ) == (10, 0, "running")


def test_gap_before_the_first_commit_counts_from_the_start() -> None:
    """A container whose daemon died before any commit has run since it was started."""
    account = begin(None, "boot:1", START, is_new=False)
    reading = Reading(START + 500, 77, 4096, ZERO)
    account = take(bridge_gap(account, reading, "running", START), reading)

    assert account.totals.running_ns == 500
    assert account.totals.cpu_ns == 77
    assert account.totals.memory_bytens2 == 0


def test_cpu_found_after_a_crash_is_not_bounded() -> None:
    """Without a known start of the counter no bound applies: what the kernel says is true."""
    account = begin(None, "boot:1", START, is_new=False)
    reading = Reading(START + 500, 10**15, 0)

    assert take(account, reading).totals.cpu_ns == 10**15
