"""Properties of the arithmetic of accounts: exact, monotone, indifferent to when one looks."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aruntime.metering.account import COUNTERS, Account, ProcessIo, Reading, Totals
from aruntime.metering.integrals import (
    add_exec,
    add_restart,
    advance,
    begin,
    bridge_gap,
    close,
    transition,
)
from tests.metering import CORES, START, fresh, take

durations = st.integers(0, 3_600_000_000_000)
sizes = st.integers(0, 1 << 45)


class Step(msgspec.Struct, frozen=True):
    """A moment of a container's life: time since the last, and what happened in between."""

    span_ns: int
    cpu_ns: int
    faults: int
    written: int
    memory: int


@st.composite
def steps(draw: st.DrawFn) -> Step:
    """A step within what the hardware can do."""
    span = draw(durations)
    return Step(
        span_ns=span,
        cpu_ns=draw(st.integers(0, CORES * span)),
        faults=draw(st.integers(0, 1 << 40)),
        written=draw(sizes),
        memory=draw(sizes),
    )


traces = st.lists(steps(), min_size=1, max_size=12)


def readings(trace: list[Step]) -> list[Reading]:
    """What a reader would see after each step."""
    now, cpu, faults, written = START, 0, 0, 0
    seen = []
    for step in trace:
        now, cpu = now + step.span_ns, cpu + step.cpu_ns
        faults, written = faults + step.faults, written + step.written
        counters = tuple(faults if name == "page_faults" else 0 for name in COUNTERS)
        block = {"vda": (0, written, 0, 1, 0)}
        network = {"eth0": (faults, written, 1, 2, 0, 0, written // 2, 1)}
        process = ProcessIo(faults, written, written // 3)
        seen.append(Reading(now, cpu, step.memory, counters, block, network, process))
    return seen


def counted(totals: Totals) -> tuple[object, ...]:
    """Everything that the kernel counts: it does not depend on who looks when."""
    return (totals.cpu_ns, totals.counters, totals.block, totals.network, totals.process)


def stored(account: Account) -> Account:
    """The account as it comes back from the disk."""
    return msgspec.json.decode(msgspec.json.encode(account), type=Account)


@given(traces, st.data())
def test_conservation_over_crashes(trace: list[Step], data: st.DataObject) -> None:
    """Whatever is polled, committed and lost with a crash, totals end as the kernel's counters."""
    account = committed = fresh()
    for reading in readings(trace):
        event = data.draw(st.sampled_from(("poll", "poll+commit", "crash", "nothing")))
        if event.startswith("poll"):
            account = take(account, reading)
        if event == "poll+commit":
            committed = account
        if event == "crash":
            account = bridge_gap(stored(committed), reading, "running", START)
    last = readings(trace)[-1]
    account = take(account, last)

    written = last.process.write_bytes - last.process.cancelled_write_bytes if last.process else 0
    assert counted(account.totals) == (
        last.cpu_ns, last.counters, last.block, last.network, (*(last.process or ()), written)
    )  # fmt: skip
    assert last.boot_ns - START == account.totals.running_ns


@given(traces, st.data())
def test_schedule_invariance(trace: list[Step], data: st.DataObject) -> None:
    """Two polling schedules over the same life give the same counters and the same time."""
    seen = readings(trace)
    picked = [reading for reading in seen[:-1] if data.draw(st.booleans())]
    often, seldom = take(fresh(), *seen), take(fresh(), *picked, seen[-1])

    assert counted(often.totals) == counted(seldom.totals)
    assert often.totals.running_ns == seldom.totals.running_ns


@given(traces)
def test_totals_never_fall(trace: list[Step]) -> None:
    """No total falls from one reading to the next."""
    account = fresh()
    for reading in readings(trace):
        after = take(account, reading)

        assert monotone(account.totals, after.totals)
        account = after


def monotone(before: Totals, after: Totals) -> bool:
    """Whether no scalar total fell."""
    old, new = msgspec.structs.asdict(before), msgspec.structs.asdict(after)
    rows = [(before.counters, after.counters), (before.process, after.process)]
    rows += [(row, after.block[name]) for name, row in before.block.items()]
    rows += [(row, after.network[name]) for name, row in before.network.items()]
    return all(new[name] >= value for name, value in old.items() if isinstance(value, int)) and all(
        b >= a for one, other in rows for a, b in zip(one, other, strict=True)
    )


raws = st.lists(st.integers(0, 1 << 62), min_size=1, max_size=10)


@given(raws, st.lists(durations, min_size=10, max_size=10))
def test_garbage_never_bills_more_than_the_hardware_can_do(
    values: list[int], spans: list[int]
) -> None:
    """Any sequence of raw CPU values gives growth that is not negative and within the bound."""
    account = fresh()
    now = START
    for value, span in zip(values, spans, strict=False):
        now += span
        account = advance(account, Reading(now, value, 0), cores=CORES).account
    slack = CORES * 10_000_000 * len(values)

    assert 0 <= account.totals.cpu_ns <= CORES * (now - START) * 105 // 100 + slack


@given(st.integers(1, 10**12), st.integers(0, 10**9))
def test_reset_counts_what_came_after_it(before: int, after: int) -> None:
    """A counter that was zeroed adds what it shows, and is flagged once."""
    hour = 3_600_000_000_000
    account = take(fresh(), Reading(START + hour, before, 0))
    reset, anomalies = advance(account, Reading(START + 2 * hour, after, 0), cores=CORES)
    once_more = advance(reset, Reading(START + 3 * hour, after, 0), cores=CORES)

    if after < before:
        assert before + after == reset.totals.cpu_ns
        assert anomalies == ("counter_reset",)
    else:
        assert after == reset.totals.cpu_ns
        assert anomalies == ()
    assert once_more.anomalies == ()
    assert reset.totals.cpu_ns == once_more.account.totals.cpu_ns


def test_unbelievable_reading_waits_and_is_flagged_once() -> None:
    """A spike beyond the bound is not billed; the true counter goes on from the old baseline."""
    second = 1_000_000_000
    account = take(fresh(), Reading(START + second, second, 0))
    held, first = advance(account, Reading(START + 2 * second, 10**18, 0), cores=CORES)
    held, again = advance(held, Reading(START + 3 * second, 10**18, 0), cores=CORES)
    back, later = advance(held, Reading(START + 4 * second, 3 * second, 0), cores=CORES)

    assert (first, again, later) == (("cpu_bound",), (), ())
    assert second == held.totals.cpu_ns
    assert 3 * second == back.totals.cpu_ns
    assert close(back, None, START + 5 * second).totals.cpu_quarantined_ns == 0


def test_unbelievable_end_is_put_aside() -> None:
    """An excess that is still there at the end goes to the quarantine, visible and not billed."""
    reading = Reading(START + 1, 10**18, 0)
    ended = close(take(fresh(), reading), reading, START + 1)

    assert ended.totals.cpu_ns == 0
    assert ended.totals.cpu_quarantined_ns == 10**18
    assert take(ended, reading).totals.cpu_quarantined_ns == 10**18


@given(st.integers(0, 1 << 50), st.lists(durations, min_size=1, max_size=8))
def test_constant_memory_is_exact(size: int, spans: list[int]) -> None:
    """The integral of a constant is constant times time, after the first sample."""
    times = list(itertools.accumulate(spans, initial=START))
    first, *rest = (Reading(at, 0, size) for at in times)
    account = take(fresh(), first)
    base = account.totals.memory_bytens2
    account = take(account, *rest)

    assert 2 * size * sum(spans) == account.totals.memory_bytens2 - base


@given(st.integers(0, 1 << 30), st.integers(0, 1 << 20), st.lists(durations, max_size=8))
def test_linear_memory_is_exact(start: int, slope: int, spans: list[int]) -> None:
    """The trapezoid of a straight line is its area, wherever it is sampled."""
    times = list(itertools.accumulate(spans, initial=0))
    account = take(fresh(), Reading(START, 0, start))
    for at in times:
        account = take(account, Reading(START + at, 0, start + slope * at))
    length = times[-1]

    assert (2 * start + slope * length) * length == account.totals.memory_bytens2


@given(traces)
def test_memory_is_between_its_extremes(trace: list[Step]) -> None:
    """min·T ≤ integral ≤ max·T."""
    seen = readings(trace)
    account = take(fresh(), *seen)
    memories = [0, *(step.memory for step in trace)]
    span = seen[-1].boot_ns - START

    assert 2 * min(memories) * span <= account.totals.memory_bytens2 <= 2 * max(memories) * span


@given(sizes, sizes, durations)
def test_last_piece_is_held(alive: int, remains: int, span: int) -> None:
    """At the end the last sample is held; what the dead cgroup shows does not matter."""
    account = take(fresh(), Reading(START, 0, alive))
    reading = Reading(START + span, 0, remains)
    ended = advance(account, reading, cores=CORES, hold=True).account
    ended = close(ended, reading, reading.boot_ns)
    later = advance(ended, Reading(START + 2 * span, 0, remains), cores=CORES, hold=True).account

    assert 2 * alive * span == ended.totals.memory_bytens2
    assert ended.totals.memory_bytens2 == later.totals.memory_bytens2
    assert ended.totals.running_ns == later.totals.running_ns


def test_restart_carries_totals_on() -> None:
    """A new cgroup counts from zero, on top of what the container used before."""
    first = take(fresh(), Reading(START + 10**9, 5_000, 0, None, {"vda": (1, 2, 3, 4, 5)}))
    second = begin(add_restart(first), "boot:2", START + 2 * 10**9, is_new=True)
    second = take(second, Reading(START + 3 * 10**9, 7_000, 0, None, {"vda": (1, 1, 1, 1, 1)}))

    assert second.totals.cpu_ns == 12_000
    assert second.totals.block == {"vda": (2, 3, 4, 5, 6)}
    assert second.totals.restarts == 1


def test_same_incarnation_goes_on() -> None:
    """Opening an incarnation that is open changes nothing."""
    account = take(fresh(), Reading(START + 10**9, 5_000, 0))

    assert account == begin(account, "boot:1", START + 2 * 10**9, is_new=False)


def test_missing_device_keeps_its_baseline() -> None:
    """A device that is not listed for a while is not counted again from zero."""
    seen = (
        Reading(START + 1, 0, 0, None, {"vda": (10, 0, 0, 0, 0)}),
        Reading(START + 2, 0, 0, None, {}),
        Reading(START + 3, 0, 0, None, {"vda": (15, 0, 0, 0, 0)}),
    )

    assert take(fresh(), *seen).totals.block == {"vda": (15, 0, 0, 0, 0)}


def test_network_counts_as_devices_do() -> None:
    """Interfaces of a new incarnation add to the totals."""
    row = (1, 2, 3, 4, 5, 6)
    account = take(fresh(), Reading(START + 1, 0, 0, None, None, {"eth0": row}))
    account = begin(account, "boot:2", START + 2, is_new=True)
    account = take(account, Reading(START + 3, 0, 0, None, None, {"eth0": row}))

    assert account.totals.network == {"eth0": (2, 4, 6, 8, 10, 12)}


ios = st.builds(ProcessIo, sizes, sizes, sizes)


@given(st.lists(ios, max_size=6))
def test_process_figures_never_fall(lives: list[ProcessIo]) -> None:
    """Whatever the tree's sums do, exported figures only rise and reach every maximum."""
    account = fresh()
    for number, live in enumerate(lives):
        after = take(account, Reading(START + number, 0, 0, process=live))

        assert all(
            new >= old
            for old, new in zip(account.totals.process, after.totals.process, strict=True)
        )
        assert after.totals.process_read_bytes >= live.read_bytes
        account = after


def test_exec_is_added_once() -> None:
    """A zombie offered again after a crash is not added twice; reaped ones are forgotten."""
    once = add_exec(fresh(), "10-5", ProcessIo(1, 20, 3))
    twice = add_exec(once, "10-5", ProcessIo(1, 20, 3), frozenset({"10-5"}))
    other = add_exec(twice, "11-6", ProcessIo(1, 1, 1), frozenset())
    account = take(other, Reading(START + 1, 0, 0, process=ProcessIo(100, 100, 0)))

    assert once == twice
    assert other.exec_keys == ("11-6",)
    assert account.totals.process == (102, 121, 4, 117)


def test_account_survives_storage() -> None:
    """Integers wider than 64 bits come back from JSON as they were."""
    account = take(fresh(), Reading(START, 1, 1 << 60), Reading(START + 10**18, 2, 1 << 60))

    assert account.totals.memory_bytens2 > 1 << 64
    assert account == stored(account)


def test_unknown_status_is_refused() -> None:
    """A status outside the table is a bug, not a state."""
    with pytest.raises(ValueError, match="sleeping"):
        transition(fresh(), "sleeping", START)
