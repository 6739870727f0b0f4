"""How an account grows: exact differences and integrals of kernel counters. Pure functions.

The metering rules that live here: R1 (integers in base units), R2 (a counter that fell was
reset), R3 (a bound that no set of cores can exceed), R8 (the gap of a dead daemon), R10 (time is
CLOCK_BOOTTIME), the doubled trapezoid of memory with a step at the end, and the split of time
into running and paused.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import add, sub
from typing import NamedTuple

import msgspec

from aruntime.metering.account import (
    COUNTERS,
    STATUSES,
    Account,
    Ints,
    ProcessIo,
    Reading,
    Request,
    Span,
    Totals,
)

CPU_BOUND_PERCENT = 105
"""Rule R3: a reading that claims more CPU than this share of all cores is not believed."""

CPU_BOUND_SLACK_NS = 10_000_000
"""Per core: the kernel charges a running task at the tick, so a core may be a tick behind."""


NO_REQUEST = Request()


UNREAD = "removed_unread"
"""Why a record is an estimate: the cgroup was removed before it could be read a last time."""


class Advance(NamedTuple):
    """An account after a reading and the anomalies the reading showed."""

    account: Account
    anomalies: tuple[str, ...] = ()


def begin(previous: Account | None, cgroup: str, at_ns: int, *, is_new: bool) -> Account:
    """Open an incarnation, whose counters start at zero; totals are carried on.

    Args:
        previous: the account of the same container, None for a new one.
        cgroup: boot id and inode of its cgroup.
        at_ns: boot time at which it began to run.
        is_new: the cgroup was made this instant. False: found after a crash; if the account is
            of this cgroup it goes on. If not, the crash came before the first commit; then
            neither memory nor the bound can look back, while every counter counts from zero.
    """
    if previous is not None and not is_new and previous.incarnation.startswith(f"{cgroup}:"):
        return previous
    known = at_ns if is_new else 0
    totals = previous.totals if previous is not None else Totals()
    return Account(
        incarnation=f"{cgroup}:{at_ns}",
        time_ns=at_ns,
        sample_ns=known,
        cpu_at_ns=known,
        estimated=previous.estimated if previous is not None else (),
        totals=totals,
        requested_ns=totals.running_ns,
    )


def advance(
    account: Account,
    reading: Reading,
    *,
    cores: int,
    hold: bool = False,
    request: Request = NO_REQUEST,
) -> Advance:
    """Take a reading of the same incarnation into the account.

    Args:
        account: the account before.
        reading: raw counters; boot time never lies before the account's.
        cores: processors of the host, for the bound of R3.
        hold: the container is dead: its memory counter shows only remains, so the last sample
            is held up to now instead of sloping down to them (metering rule of the final piece).
        request: what is charged at least.
    """
    now = max(reading.boot_ns, account.time_ns)
    cpu_raw, cpu_delta, anomaly = _cpu_step(account, reading.cpu_ns, now, cores)
    anomalies = (anomaly,) if anomaly and not (anomaly == "cpu_bound" and account.cpu_held) else ()
    held = anomaly == "cpu_bound"
    slow, slow_totals, reset = _slow_step(account, reading)
    if reset and "counter_reset" not in anomalies:
        anomalies = (*anomalies, "counter_reset")
    grown = _integrals(account, reading, now, cpu_delta, hold=hold, request=request)
    totals = msgspec.structs.replace(account.totals, **grown, **slow_totals)
    after = msgspec.structs.replace(
        account,
        time_ns=now,
        sample_ns=now,
        sample_bytes=account.sample_bytes if hold else reading.working_set,
        sample_usage=account.sample_usage if hold else reading.usage_bytes,
        cpu_at_ns=account.cpu_at_ns if held else now,
        cpu_raw=cpu_raw,
        cpu_held=held,
        memory_peak=max(account.memory_peak, reading.memory_peak, reading.working_set),
        requested_ns=totals.running_ns,
        span=grow_span(account, account.span, reading, now, anomalies),
        totals=totals,
        **slow,
    )
    return Advance(after, anomalies)


def transition(account: Account, status: str, at_ns: int) -> Account:
    """Change the status at a boot time, closing the span of the old one.

    Freezing counts as running until the kernel says frozen; the memory integral does not care.
    """
    if status not in STATUSES:
        raise ValueError(f"unknown container status {status!r}")
    now = max(at_ns, account.time_ns)
    paused_now = status == "paused" and account.status != "paused"
    totals = msgspec.structs.replace(
        account.totals,
        pauses=account.totals.pauses + (1 if paused_now else 0),
        **_time_step(account, now),
    )
    return msgspec.structs.replace(account, status=status, time_ns=now, totals=totals)


def bridge_gap(account: Account, reading: Reading, status: str, started_ns: int) -> Account:
    """Account for time in which no daemon looked (R8): memory is estimated, so it is flagged.

    CPU and I/O need nothing: the kernel went on counting. The gap is split between paused and
    running by the kernel's own frozen time where the cgroup2 tree tells it, else it belongs to
    the status at the last look. Follow with :func:`advance` of the same reading.

    Args:
        account: as of the last commit.
        reading: the first since.
        status: what the container is now.
        started_ns: boot time at which its program was started; counts if the account was last
            seen before that.
    """
    now = max(reading.boot_ns, account.time_ns)
    if account.status == "created" and status != "created":
        account = transition(account, "running", min(started_ns, now))
    gap = now - account.time_ns
    frozen_us = reading.counters[_FROZEN] if reading.counters is not None else None
    if frozen_us is not None and account.status != "created":
        paused = min(gap, max(0, frozen_us - account.raw[_FROZEN]) * 1000)
        totals = msgspec.structs.replace(
            account.totals,
            paused_ns=account.totals.paused_ns + paused,
            running_ns=account.totals.running_ns + gap - paused,
            pauses=account.totals.pauses + (status == "paused" and account.status != "paused"),
        )
        bridged = msgspec.structs.replace(account, status=status, time_ns=now, totals=totals)
    else:
        bridged = transition(account, status, now)
    return flag_estimate(bridged, "daemon_gap")


def flag_estimate(account: Account, reason: str) -> Account:
    """Note, once, that a part of the totals and of the open interval is estimated."""
    span = msgspec.structs.replace(
        account.span, estimated=add_new(account.span.estimated, (reason,))
    )
    return msgspec.structs.replace(
        account, estimated=add_new(account.estimated, (reason,)), span=span
    )


def add_exec(
    account: Account, key: str, figures: ProcessIo, unreaped: frozenset[str] = frozenset()
) -> Account:
    """Add the figures of an ended exec'd process, once per key (``pid-starttime``).

    Args:
        account: the account.
        key: of the zombie.
        figures: its final ones.
        unreaped: those of ``account.exec_keys`` that still are zombies; the rest is forgotten,
            for a reaped process is never offered again.
    """
    if key in account.exec_keys:
        return account
    kept = tuple(old for old in account.exec_keys if old in unreaped)
    summed = tuple(old + new for old, new in zip(account.exec_io, figures, strict=True))
    return msgspec.structs.replace(account, exec_io=summed, exec_keys=(*kept, key))


def close(account: Account, reading: Reading | None, at_ns: int) -> Account:
    """End an incarnation: status exited, and an unbelieved CPU difference is put aside (R3)."""
    after = transition(account, "exited", at_ns)
    if reading is None or not after.cpu_held:
        return after
    excess = reading.cpu_ns - after.cpu_raw
    totals = msgspec.structs.replace(
        after.totals, cpu_quarantined_ns=after.totals.cpu_quarantined_ns + excess
    )
    noted = add_new(after.span.anomalies, (f"cpu_quarantined:{excess}",))
    return msgspec.structs.replace(
        after,
        cpu_raw=reading.cpu_ns,
        cpu_at_ns=after.time_ns,
        cpu_held=False,
        span=msgspec.structs.replace(after.span, anomalies=noted),
        totals=totals,
    )


def add_restart(account: Account) -> Account:
    """Count a restart by policy."""
    totals = msgspec.structs.replace(account.totals, restarts=account.totals.restarts + 1)
    return msgspec.structs.replace(account, totals=totals)


_FROZEN = COUNTERS.index("frozen_us")


def _cpu_step(account: Account, raw: int, now: int, cores: int) -> tuple[int, int, str]:
    """New CPU baseline, difference, and an anomaly or an empty string (R2, R3)."""
    delta = raw - account.cpu_raw
    anomaly = ""
    if delta < 0:
        delta, anomaly = raw, "counter_reset"
    if account.cpu_at_ns:
        span = now - account.cpu_at_ns
        if delta > cores * (span * CPU_BOUND_PERCENT // 100 + CPU_BOUND_SLACK_NS):
            return account.cpu_raw, 0, "cpu_bound"
    return raw, delta, anomaly


def _integrals(
    account: Account, reading: Reading, now: int, cpu_delta: int, *, hold: bool, request: Request
) -> dict[str, int]:
    """Changed totals of what the meter itself adds up, and of the CPU time it goes with."""
    before = account.totals
    area, usage_area, area_alloc = _memory_step(account, reading, now, hold, request.memory_bytes)
    times = _time_step(account, now)
    requested = 0
    if milli := request.cpu_milli:
        # A difference of two floors: no number of steps loses more than a nanosecond in all.
        ran = times.get("running_ns", before.running_ns)
        requested = ran * milli // 1000 - account.requested_ns * milli // 1000
    return {
        "cpu_ns": before.cpu_ns + cpu_delta,
        "memory_bytens2": before.memory_bytens2 + area,
        "usage_bytens2": before.usage_bytens2 + usage_area,
        "cpu_alloc_ns": before.cpu_alloc_ns + max(requested, cpu_delta),
        "memory_alloc_bytens2": before.memory_alloc_bytens2 + area_alloc,
        **times,
    }


def _memory_step(
    account: Account, reading: Reading, now: int, hold: bool, request: int
) -> tuple[int, int, int]:
    """Twice the areas under the lines from the last sample to this one; steps when held.

    Of the working set, of the usage, and of the working set with the request as its floor. An
    ended container uses none: what its cgroup still shows is page cache the kernel may drop.
    """
    if not account.sample_ns or account.status == "exited":
        return 0, 0, 0
    span = max(0, now - account.sample_ns)
    first, usage = account.sample_bytes, account.sample_usage
    area = (first + (first if hold else reading.working_set)) * span
    usage_area = (usage + (usage if hold else reading.usage_bytes)) * span
    return area, usage_area, max(area, 2 * request * span)


def grow_span(
    account: Account, span: Span, reading: Reading, now: int, anomalies: tuple[str, ...]
) -> Span:
    """What does not add up, with one more reading of an account."""
    seen = max(span.usage_peak, reading.usage_bytes, reading.working_set)
    if reading.memory_peak > account.memory_peak:
        seen = max(seen, reading.memory_peak)
    return Span(
        samples=span.samples + 1,
        max_gap_ns=max(span.max_gap_ns, now - account.sample_ns if account.sample_ns else 0),
        usage_peak=seen,
        pids_peak=max(span.pids_peak, reading.pids),
        estimated=span.estimated,
        anomalies=add_new(span.anomalies, anomalies) if anomalies else span.anomalies,
    )


def add_new(known: tuple[str, ...], more: tuple[str, ...]) -> tuple[str, ...]:
    """Each of both once, in the order of appearance."""
    return (*known, *(one for one in more if one not in known))


def _time_step(account: Account, now: int) -> dict[str, int]:
    """Running and paused totals up to now; a created or exited container spends neither."""
    span = now - account.time_ns
    totals = account.totals
    if account.status == "paused":
        return {"paused_ns": totals.paused_ns + span}
    if account.status in ("running", "pausing"):
        return {"running_ns": totals.running_ns + span}
    return {}


def _slow_step(
    account: Account, reading: Reading
) -> tuple[dict[str, object], dict[str, object], bool]:
    """Changed fields of the account and of its totals, and whether a counter was reset."""
    fields: dict[str, object] = {}
    totals: dict[str, object] = {}
    resets = False
    if reading.counters is not None:
        known = _known(account.raw, reading.counters)
        totals["counters"], reset = grow(account.totals.counters, account.raw, known)
        fields["raw"] = known
        resets |= reset
    if reading.block is not None:
        totals["block"], fields["block_raw"], reset = _grow_each(
            account.totals.block, account.block_raw, reading.block
        )
        resets |= reset
    if reading.network is not None:
        totals["network"], fields["network_raw"], reset = _grow_each(
            account.totals.network, account.network_raw, reading.network
        )
        resets |= reset
    if reading.process is not None:
        raw = _process_raw(account, reading.process)
        totals["process"], _ = grow(account.totals.process, account.process_raw, raw)
        fields["process_raw"] = raw
    return fields, totals, resets


def grow(total: Ints, base: Ints, raw: Ints) -> tuple[Ints, bool]:
    """Totals grown by raw - base; a counter that fell was reset, so all it shows is new (R2)."""
    if raw == base:
        return total, False
    deltas = tuple(map(sub, raw, base))
    reset = min(deltas) < 0
    if total == base and not reset:
        return raw, False  # of a first incarnation: then all of it is kept once, not twice
    if reset:
        deltas = tuple(delta if delta >= 0 else now for delta, now in zip(deltas, raw, strict=True))
    return tuple(map(add, total, deltas)), reset


def _known(base: Ints, raw: tuple[int | None, ...]) -> Ints:
    """The raw counters; one the kernel does not count stays where it was."""
    return tuple(old if new is None else new for old, new in zip(base, raw, strict=True))


def _grow_each(
    totals: dict[str, Ints], bases: dict[str, Ints], raws: Mapping[str, Ints]
) -> tuple[dict[str, Ints], dict[str, Ints], bool]:
    """Grow one tuple per device; a device that is not listed this time keeps its baseline."""
    if raws == bases:
        return totals, bases, False
    grown, kept, resets = dict(totals), {**bases, **raws}, False
    for device, raw in raws.items():
        total, base = (
            padded(totals.get(device, ()), len(raw)),
            padded(bases.get(device, ()), len(raw)),
        )
        grown[device], reset = grow(total, base, raw)
        resets |= reset
    return grown, kept, resets


def padded(row: Ints, length: int) -> Ints:
    """The row of a device with what an earlier version of this program did not count yet."""
    return row if len(row) >= length else (*row, *(0,) * (length - len(row)))


def _process_raw(account: Account, live: ProcessIo) -> Ints:
    """Figures of the tree and of its ended exec'd processes, each kept from falling.

    They dip while a child is dead but not reaped, and a child that nobody waits for takes its
    figures with it.
    """
    read, write, cancelled = (a + b for a, b in zip(live, account.exec_io, strict=True))
    now = (read, write, cancelled, max(0, write - cancelled))
    return tuple(max(pair) for pair in zip(account.process_raw, now, strict=True))
