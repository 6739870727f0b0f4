"""When the ledger is signed, what happens without a key, and who is refused on a full disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from aruntime.errors import Unavailable
from aruntime.metering import checkpoints
from aruntime.metering.checkpoints import Checkpoints
from aruntime.metering.clock import WallClock, boottime_ns
from aruntime.metering.ledger_reader import LedgerReader
from aruntime.metering.meter import Meter
from aruntime.metering.signing import public_key
from tests.metering import CounterTree, about, faults_in, metering, start


def checkpoints_in(path: Path) -> list[tuple[str, int]]:
    """Reasons and covered records."""
    with LedgerReader(path / "ledger.db") as reader:
        return [(one.reason, one.seq) for one in reader.checkpoints()]


async def test_signed_on_demand_and_at_the_stop(counters: CounterTree, tmp_path: Path) -> None:
    """A checkpoint commits what waits; a stop makes one if anything is new."""
    key = tmp_path / "ledger.key"
    async with metering(counters, tmp_path, ledger_key=key) as meter:
        await start(meter, counters, "a")
        meter._subjects["a"].cut()
        meter.books.offer(meter._subjects["a"], "poll")
        first = await meter.checkpoints.make("demand")
        assert meter.view().daemon.ledger.checkpoint_ns == first.time_ns
        await meter.final("a", exit_code=0)
    async with metering(counters, tmp_path, ledger_key=key) as meter:
        assert meter.books.file.checkpoint is not None  # nothing is new: none at this stop

    assert checkpoints_in(tmp_path) == [("demand", 2), ("stop", 3)]
    assert faults_in(tmp_path, public_key(key)) == []


@pytest.mark.parametrize(("hour", "reason"), [(1698796800, "period"), (1698800400, "hour")])
async def test_hours_and_months(
    counters: CounterTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hour: int, reason: str
) -> None:
    """Each full hour has its checkpoint; the one that ends a month (2023-10) says so."""
    monkeypatch.setattr(checkpoints, "AFTER_HOUR_SECONDS", 0)
    async with metering(counters, tmp_path) as meter:
        now_ns = hour * 10**9 + 1_000_000
        meter.books.clock = WallClock(wall_ns=now_ns, boot_ns=boottime_ns())
        assert 3590 < meter.books.seconds_to_hour() <= 3600
        waits = iter((0.0, 3600.0))
        monkeypatch.setattr(meter.books, "seconds_to_hour", lambda: next(waits))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(meter.checkpoints.run)
            with trio.fail_after(20):
                while meter.books.file.checkpoint is None:
                    await trio.sleep(0.005)
            nursery.cancel_scope.cancel()

    assert checkpoints_in(tmp_path)[0] == (reason, 0)


async def test_no_key_no_checkpoint(counters: CounterTree, tmp_path: Path) -> None:
    """A key that cannot be made is said; the meter runs on and stops as usual."""
    (tmp_path / "file").write_text("")
    async with metering(counters, tmp_path, ledger_key=tmp_path / "file" / "key") as meter:
        await start(meter, counters, "a")
        with pytest.raises(Unavailable, match=r"cannot sign the ledger with .*not a directory"):
            await meter.checkpoints.make("demand")
        await meter.checkpoints.make_or_log("hour")
    async with metering(counters, tmp_path, ledger_key=tmp_path / "ledger.db") as meter:
        with pytest.raises(Unavailable, match="is no Ed25519 private key"):
            await meter.checkpoints.make("demand")

    assert checkpoints_in(tmp_path) == []


async def test_unsigned_by_choice(counters: CounterTree, tmp_path: Path) -> None:
    """Without a key by choice, checkpoints are made and not signed."""
    async with metering(counters, tmp_path) as meter:
        await start(meter, counters, "a")
        made = await Checkpoints(meter.books, None).make("demand")

        assert (made.key, made.signature) == ("", "")
    assert faults_in(tmp_path) == []


async def test_full_disk_refuses_a_checkpoint(counters: CounterTree, tmp_path: Path) -> None:
    """The command is told; the next one that the disk takes follows the last one."""
    async with metering(counters, tmp_path) as meter:
        await meter.settle([])
        connection = meter.books.file._connection
        assert connection is not None
        connection.execute("PRAGMA query_only = 1")
        with pytest.raises(Unavailable, match="cannot write to the ledger"):
            await meter.checkpoints.make("demand")
        connection.execute("PRAGMA query_only = 0")
        assert (await meter.checkpoints.make("demand")).n == 1


@pytest.mark.parametrize("policy", ["run", "refuse"])
async def test_new_containers_on_a_full_disk(
    counters: CounterTree, tmp_path: Path, policy: str
) -> None:
    """R18: whoever chose so starts nothing that could not be billed; else counting goes on."""
    meter = Meter(
        str(tmp_path / "ledger.db"), counters.driver, cores=1000, on_ledger_failure=policy
    )
    await meter.open()
    try:
        await start(meter, counters, "a")
        connection = meter.books.file._connection
        assert connection is not None
        connection.execute("PRAGMA query_only = 1")
        assert not (await meter.final("a", exit_code=0)).durable
        subject = about(counters, "b")
        if policy == "refuse":
            with pytest.raises(Unavailable, match="1 containers wait for it: make room"):
                await meter.register(subject)
        else:
            await meter.register(subject)
        connection.execute("PRAGMA query_only = 0")
        await meter.books.commits.commit()
        if policy == "refuse":
            await meter.register(subject)
    finally:
        await meter.aclose()
