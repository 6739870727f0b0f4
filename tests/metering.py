"""What tests of the meter share: counter files, a meter over them, accounts.

The counter files are a tree that the real v1 driver and reader take for the kernel's.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from aruntime.cgroups.detect import Hierarchy
from aruntime.cgroups.driver import Cgroup
from aruntime.cgroups.v1 import V1Driver
from aruntime.metering.account import COUNTERS, Account, Reading
from aruntime.metering.chain import add_sums, sums_of
from aruntime.metering.integrals import advance, begin, transition
from aruntime.metering.ledger_reader import LedgerReader
from aruntime.metering.meter import Meter
from aruntime.metering.record import LedgerRecord
from aruntime.metering.signing import is_signed
from aruntime.metering.subject import MeterSubject
from aruntime.metering.totals import TenantTotals
from aruntime.metering.verifying import verified

CORES = 4
START = 1_000_000_000_000
"""Boot time at which the containers of arithmetic tests begin."""
ZERO = (0,) * len(COUNTERS)

CONTROLLERS = ("cpuacct", "cpu", "memory", "pids")

MEMORY_KEYS = (
    "cache", "rss", "total_cache", "total_rss", "total_shmem", "total_mapped_file", "total_dirty",
    "total_writeback", "total_swap", "total_pgfault", "total_pgmajfault", "total_inactive_file",
)  # fmt: skip


class CounterTree:
    """Counters of cgroups in files of the kernel's names and formats, changed at will.

    Numbers are written with leading zeros, so that a file keeps its size and one pwrite changes
    it at once, under the eyes of whoever reads it in another thread.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in (*CONTROLLERS, "unified"):
            (root / name).mkdir(parents=True)
        hierarchy = Hierarchy(
            "hybrid",
            {name: str(root / name) for name in CONTROLLERS},
            str(root / "unified"),
            frozenset(),
        )
        (root / "cpuacct/cpuacct.usage").write_text("0\n")
        self.driver = V1Driver(hierarchy, "/test")
        self.values: dict[str, dict[str, int]] = {}
        self.removed = 0

    def add(self, container_id: str) -> Cgroup:
        """Make a cgroup whose counters are all 0."""
        cgroup = self.driver.cgroup(container_id)
        for directory in cgroup.directories.values():
            Path(directory).mkdir(parents=True)
        self.values[container_id] = {}
        self.set(container_id)
        return cgroup

    def remove(self, container_id: str) -> None:
        """Remove a cgroup; like the kernel's, its inode is not used again."""
        for directory in self.driver.cgroup(container_id).directories.values():
            self.removed += 1
            Path(directory).rename(self.root / f"removed-{self.removed}")
        del self.values[container_id]

    def use(self, container_id: str, **more: int) -> None:
        """Let counters grow."""
        values = self.values[container_id]
        self.set(container_id, **{key: values.get(key, 0) + more[key] for key in more})

    def set(self, container_id: str, **values: int) -> None:
        """Give counters and levels values."""
        known = self.values[container_id]
        known.update(values)

        def at(key: str) -> int:
            return known.get(key, 0)

        stat = {"total_inactive_file": at("inactive_file"), "total_pgfault": at("page_faults")}
        files = {
            "cpuacct/cpuacct.usage": f"{at('cpu_ns'):024d}\n",
            "cpuacct/cpuacct.stat": f"user {at('user'):020d}\nsystem {at('system'):020d}\n",
            "cpuacct/cgroup.procs": "",
            "cpu/cpu.stat": "nr_periods 0\nnr_throttled 0\nthrottled_time 0\n",
            "memory/memory.usage_in_bytes": f"{at('memory'):024d}\n",
            "memory/memory.max_usage_in_bytes": f"{at('memory'):024d}\n",
            "memory/memory.limit_in_bytes": "9223372036854771712\n",
            "memory/memory.failcnt": "0\n",
            "memory/memory.oom_control": f"under_oom 0\noom_kill {at('oom'):020d}\n",
            "memory/memory.stat": "".join(f"{k} {stat.get(k, 0):020d}\n" for k in MEMORY_KEYS),
            "pids/pids.current": "1\n",
            "pids/pids.max": "max\n",
            "pids/pids.events": "max 0\n",
        }
        directories = self.driver.cgroup(container_id).directories
        for name, text in files.items():
            controller, _, file = name.partition("/")
            _put(f"{directories[controller]}/{file}", text)


def _put(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.pwrite(fd, text.encode(), 0)
    finally:
        os.close(fd)


@asynccontextmanager
async def metering(
    counters: CounterTree,
    path: Path,
    *,
    linger_seconds: float = 180,
    poll_seconds: float = 1,
    slow_seconds: float = 10,
    ledger_key: Path | None = None,
) -> AsyncIterator[Meter]:
    """An open meter whose loops do not run; closed in the end."""
    meter = Meter(
        str(path / "ledger.db"),
        counters.driver,
        cores=1000,
        linger_seconds=linger_seconds,
        poll_seconds=poll_seconds,
        slow_seconds=slow_seconds,
        ledger_key=ledger_key,
    )
    await meter.open()
    try:
        yield meter
    finally:
        await meter.aclose()


def about(counters: CounterTree, name: str, *, new: bool = True) -> MeterSubject:
    """A subject whose cgroup is made now, or was before."""
    cgroup = counters.add(name) if new else counters.driver.cgroup(name)
    return MeterSubject(id=name, name=f"n-{name}", tenant="acme", cgroup=cgroup)


async def start(meter: Meter, counters: CounterTree, name: str) -> None:
    """Register a new container and let its program run."""
    await meter.register(about(counters, name))
    meter.state(name, "running")


def abandon(meter: Meter) -> None:
    """Leave a meter as SIGKILL does: its files are closed, nothing more is written."""
    for subject in meter._subjects.values():
        subject.release()
    meter.books.file.close()


async def remove_cgroup(meter: Meter, counters: CounterTree, name: str) -> None:
    """Remove the cgroup of a container that has ended, after a last look, as the daemon does."""
    await meter.recheck(name)
    counters.remove(name)
    meter.unregister(name)


def tenant_cpu(meter: Meter) -> int:
    """What exporters show for the tenant."""
    totals = meter.view().tenants.get("acme")
    return totals.cpu_ns if totals is not None else 0


def fresh() -> Account:
    """A running container that has used nothing."""
    return transition(begin(None, "boot:1", START, is_new=True), "running", START)


def take(account: Account, *seen: Reading) -> Account:
    """Advance by readings, in order."""
    for reading in seen:
        account = advance(account, reading, cores=CORES).account
    return account


def records_in(path: Path) -> list[LedgerRecord]:
    """All records of a ledger, in their order."""
    with LedgerReader(path / "ledger.db") as reader:
        return list(reader.records())


def faults_in(path: Path, *keys: str) -> list[str]:
    """What is wrong with a ledger, as ``aruntime ledger verify`` would say it."""
    with LedgerReader(path / "ledger.db") as reader, reader.instant():
        return [str(fault) for fault in verified(reader, keys, is_signed).faults]


def sums_by_tenant(records: Iterable[LedgerRecord]) -> dict[str, dict[str, int]]:
    """Everything that adds up, per tenant; host records have none."""
    sums: dict[str, dict[str, int]] = {}
    for record in records:
        sums[record.tenant] = add_sums(sums.get(record.tenant, {}), sums_of(record))
    return sums


def sums_of_totals(totals: TenantTotals) -> dict[str, int]:
    """A tenant's totals by the names of sums over records, zeros left out."""
    named = {
        "running_ns": totals.container_ns - totals.paused_ns,
        "paused_ns": totals.paused_ns,
        "cpu_ns": totals.cpu_ns,
        "mem_bytens2": totals.memory_bytens2,
        "blk_read": totals.block_read_bytes,
        "blk_write": totals.block_write_bytes,
        "net_receive": totals.network_receive_bytes,
        "net_transmit": totals.network_transmit_bytes,
        "net_egress": totals.network_egress_bytes,
        "cpu_alloc_ns": totals.cpu_allocated_ns,
        "mem_alloc_bytens2": totals.memory_allocated_bytens2,
    }
    return {name: value for name, value in named.items() if value}
