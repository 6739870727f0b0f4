"""The meter against the kernel's own counts: real cgroups, real processes, real disks."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
import trio

from aruntime.cgroups.detect import detect
from aruntime.cgroups.driver import Cgroup, Driver, open_driver
from aruntime.kernel import process
from aruntime.metering.account import Ints
from aruntime.metering.ending import Final
from aruntime.metering.meter import Meter
from aruntime.metering.reading import read_process_io
from aruntime.metering.subject import MeterSubject, NetworkRead
from tests.kernel.network.conftest import Host
from tests.metering import abandon
from tests.networks import asked, bridge_network

pytestmark = pytest.mark.kernel

SECOND = 1_000_000_000

BUSY = """
import time
end = time.process_time() + {seconds}
while time.process_time() < end:
    pass
"""

FORKING = """
import os, time
count = "i=0; while [ $i -lt 300 ]; do i=$((i+1)); done"
for _ in range(20):
    child = os.posix_spawn("/bin/sh", ["sh", "-c", count], {})
    os.waitpid(child, 0)
"""


@pytest.fixture(name="driver")
def _driver() -> Iterator[Driver]:
    """A driver on a parent of this test run, removed in the end."""
    hierarchy = detect()
    if os.geteuid() != 0 or hierarchy.mode == "unified":
        pytest.skip("needs root and v1 controllers: run on a hybrid or legacy host")
    driver = open_driver(hierarchy, f"/aruntime-test-{os.getpid()}")
    yield driver
    driver.destroy(driver.cgroup_at(driver.parent))


@asynccontextmanager
async def metering(
    driver: Driver, path: Path, known: Iterable[str] = (), network: NetworkRead | None = None
) -> AsyncIterator[Meter]:
    """A running meter with short intervals."""
    ledger = str(path / "ledger.db")
    meter = Meter(ledger, driver, poll_seconds=0.02, slow_seconds=0.1, network=network)
    await meter.open()
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(meter.run)
            await meter.settle(known)
            yield meter
            nursery.cancel_scope.cancel()
    finally:
        await meter.aclose()


def spawn(driver: Driver, cgroup: Cgroup, program: str) -> subprocess.Popen[bytes]:
    """Run Python code in every hierarchy of a cgroup."""
    join = "".join(
        f"open({directory + '/cgroup.procs'!r}, 'w').write('0')\n"
        for directory in driver.procs_paths(cgroup)
    )
    return subprocess.Popen([sys.executable, "-I", "-S", "-c", join + program])


async def launch(
    meter: Meter, driver: Driver, name: str, program: str
) -> tuple[Cgroup, subprocess.Popen[bytes]]:
    """A container without namespaces: cgroup, registration, process."""
    cgroup = driver.create(name, {})
    await meter.register(MeterSubject(id=name, name=name, cgroup=cgroup))
    started = await trio.to_thread.run_sync(spawn, driver, cgroup, program)
    meter.state(name, "running")
    return cgroup, started


async def end(
    meter: Meter, driver: Driver, name: str, cgroup: Cgroup, init: subprocess.Popen[bytes]
) -> Final:
    """The order of R6: final reading of the zombie, reap, recheck, remove."""
    await trio.to_thread.run_sync(os.waitid, os.P_PID, init.pid, os.WEXITED | os.WNOWAIT)
    final = await meter.final(name, exit_code=0, zombie_pid=init.pid)
    await trio.to_thread.run_sync(init.wait)
    await remove(meter, driver, name, cgroup)
    return final


async def remove(meter: Meter, driver: Driver, name: str, cgroup: Cgroup) -> None:
    """Recheck before each attempt, until the cgroup is gone."""
    with trio.fail_after(10):
        while True:
            await meter.recheck(name)
            try:
                await trio.to_thread.run_sync(driver.destroy, cgroup)
                break
            except BlockingIOError:
                await trio.sleep(0.002)
    meter.unregister(name)


def parent_usage(driver: Driver) -> int:
    """cpuacct.usage of the parent group: hierarchical, and it keeps removed children."""
    directory = driver.cgroup_at(driver.parent).directories["cpuacct"]
    return int(Path(directory, "cpuacct.usage").read_text())


async def test_many_short_lives_are_the_kernels_count(driver: Driver, tmp_path: Path) -> None:
    """Thirty short containers at once, gone again: the tenant's total is the parent's growth."""
    async with metering(driver, tmp_path) as meter:

        async def live(name: str, program: str) -> None:
            cgroup, init = await launch(meter, driver, name, program)
            await end(meter, driver, name, cgroup, init)
            meter.forget(name)

        async with trio.open_nursery() as nursery:
            for number in range(30):
                busy = BUSY.format(seconds=number / 1000)
                nursery.start_soon(live, f"m{number}", busy if number % 3 else FORKING)
        shown = meter.view().tenants["default"]

        assert shown.cpu_ns == parent_usage(driver)
        assert shown.cpu_ns > SECOND // 10
        assert shown.containers == 30
    async with metering(driver, tmp_path) as meter:
        assert meter.view().tenants["default"] == shown


async def test_final_reading_equals_the_counter(driver: Driver, tmp_path: Path) -> None:
    """The total of a container is its cpuacct.usage, to the nanosecond, time and memory fit."""
    async with metering(driver, tmp_path) as meter:
        cgroup, init = await launch(
            meter, driver, "c1", "block = bytearray(32 << 20)\n" + BUSY.format(seconds=0.3)
        )
        await trio.to_thread.run_sync(os.waitid, os.P_PID, init.pid, os.WEXITED | os.WNOWAIT)
        final = await meter.final("c1", exit_code=0, zombie_pid=init.pid)
        usage = int(Path(cgroup.directories["cpuacct"], "cpuacct.usage").read_text())
        init.wait()
        await remove(meter, driver, "c1", cgroup)

        assert final.totals.cpu_ns == usage
        assert 0.3 * SECOND <= final.totals.cpu_ns <= final.totals.running_ns * 1.05
        held = final.totals.memory_bytens2 / 2 / final.totals.running_ns
        assert (8 << 20) < held < (64 << 20)


async def test_cpu_time_is_the_processs_own(driver: Driver, tmp_path: Path) -> None:
    """A busy loop's CPU time is what wait4(2) and the scheduler say of it (1 % or 20 ms)."""
    async with metering(driver, tmp_path) as meter:
        mark = tmp_path / "joined"
        joined = f"import time\nopen({str(mark)!r}, 'w').write(str(time.process_time_ns()))\n"
        cgroup, init = await launch(meter, driver, "c1", joined + BUSY.format(seconds=0.5))
        await trio.to_thread.run_sync(os.waitid, os.P_PID, init.pid, os.WEXITED | os.WNOWAIT)
        scheduled = int(Path(f"/proc/{init.pid}/schedstat").read_text().split()[0])
        final = await meter.final("c1", exit_code=0, zombie_pid=init.pid)
        _, _, usage = await trio.to_thread.run_sync(os.wait4, init.pid, 0)
        init.returncode = 0
        await remove(meter, driver, "c1", cgroup)
        used = final.totals.cpu_ns + int(mark.read_text())  # with what it used before it joined
        slack = max(used // 100, SECOND // 50)

        assert abs(used - scheduled) <= slack
        assert abs(used - (usage.ru_utime + usage.ru_stime) * SECOND) <= slack


async def test_buffered_writes_are_the_zombies(driver: Driver, tmp_path: Path) -> None:
    """Exactly what /proc/PID/io says: init's has its children's, an exec's is its own."""
    write = f"open({str(tmp_path)!r} + '/{{file}}', 'wb').write(bytes({{size}}))"
    forked = (
        "import os, sys\n"
        "child = os.posix_spawn(sys.executable, [sys.executable, '-c', "
        f"{write.format(file='child', size=3 << 20)!r}], {{}})\nos.waitpid(child, 0)\n"
    )
    async with metering(driver, tmp_path) as meter:
        cgroup, init = await launch(meter, driver, "c1", forked)
        execed = await trio.to_thread.run_sync(
            spawn, driver, cgroup, write.format(file="exec", size=1 << 20)
        )
        await trio.to_thread.run_sync(os.waitid, os.P_PID, execed.pid, os.WEXITED | os.WNOWAIT)
        assert await meter.exec_final("c1", execed.pid)
        of_exec = read_process_io(execed.pid)
        execed.wait()
        await trio.to_thread.run_sync(os.waitid, os.P_PID, init.pid, os.WEXITED | os.WNOWAIT)
        of_init = read_process_io(init.pid)
        final = await end(meter, driver, "c1", cgroup, init)

        written, cancelled = final.totals.process[1:3]
        assert written == of_init.write_bytes + of_exec.write_bytes
        assert cancelled == of_init.cancelled_write_bytes + of_exec.cancelled_write_bytes
        assert final.totals.process_written_bytes == written - cancelled
        # What the file system dirties of its own for them, a few blocks, is theirs too.
        assert 4 << 20 <= final.totals.process_written_bytes < (4 << 20) + (256 << 10)


async def test_pause_is_the_kernels_frozen_time(driver: Driver, tmp_path: Path) -> None:
    """A paused container uses no CPU; our span is within the kernel's own."""
    async with metering(driver, tmp_path) as meter:
        cgroup, init = await launch(meter, driver, "c1", "while True: pass")
        await until(lambda: cpu(meter) > SECOND // 20)
        began = time.monotonic_ns()
        await trio.to_thread.run_sync(driver.freeze, cgroup)
        meter.state("c1", "paused")
        await meter.cut("c1", "pause")
        before = cpu(meter)
        await trio.sleep(0.3)
        await meter.cut("c1", "resume")
        during = cpu(meter) - before
        meter.state("c1", "running")
        await trio.to_thread.run_sync(driver.thaw, cgroup)
        ended = time.monotonic_ns()
        await until(lambda: cpu(meter) > before)
        init.kill()
        final = await end(meter, driver, "c1", cgroup, init)

        assert during == 0
        assert 0.3 * SECOND <= final.totals.paused_ns <= ended - began
        frozen_us = final.totals.counters[-1]
        if frozen_us:
            assert final.totals.paused_ns // 1000 <= frozen_us <= (ended - began) // 1000 + 1


async def until(condition: Callable[[], bool]) -> None:
    """Let the meter poll until something is so."""
    with trio.fail_after(20):
        while not condition():
            await trio.sleep(0.01)


def cpu(meter: Meter) -> int:
    """CPU time as last read."""
    shown = meter.snapshot("c1")
    return shown.totals.cpu_ns if shown is not None else 0


async def test_direct_writes_are_block_io(driver: Driver, tmp_path: Path) -> None:
    """O_DIRECT bytes are counted at the disk, exactly, once the counters are switched on."""
    sources = driver.activate_block_counters()
    disks = {row.disk.name for row in sources if row.source == "throttle"}
    if not disks:
        pytest.skip("no disk with throttle counters: needs a virtual or real disk")
    target = Path("/var/tmp") / f"aruntime-test-{os.getpid()}"  # tmp_path may be a tmpfs
    program = (
        "import mmap, os\n"
        f"fd = os.open({str(target)!r}, os.O_WRONLY | os.O_DIRECT)\n"
        "block = mmap.mmap(-1, 1 << 20)\n"
        "[os.write(fd, block) for _ in range(4)]\n"
    )
    # The blocks are there and on the disk, so that what is written is the data and nothing else.
    target.write_bytes(bytes(4 << 20))
    os.sync()
    async with metering(driver, tmp_path) as meter:
        meter.block_sources = list(sources)
        try:
            cgroup, init = await launch(meter, driver, "c1", program)
            final = await end(meter, driver, "c1", cgroup, init)
        finally:
            target.unlink(missing_ok=True)

        assert disks <= final.totals.block.keys()
        assert sum(row[1] for row in final.totals.block.values()) == 4 << 20


@pytest.fixture(name="host")
def _host() -> Iterator[Host]:
    """A private network namespace that plays the host."""
    with closing(Host()) as host:
        yield host


SENDING = """
import os, socket, time
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
    opened.connect({address!r})
    opened.send(b"first")
    deadline = time.monotonic() + 60
    while not os.path.exists({gate!r}) and time.monotonic() < deadline:
        time.sleep(0.01)
    for _ in range(1000):
        opened.send(bytes(1000))
"""


async def test_datagrams_are_their_frames(driver: Driver, host: Host, tmp_path: Path) -> None:
    """A thousand datagrams of 1000 bytes are 1,042,000 bytes at the host's end of the link.

    The first one finds the neighbour; if the kernel asks for it again, that frame is seen too.
    Without IPv6, whose groups and addresses are announced at times of the kernel's choosing.
    """
    name, gate = "a" * 64, tmp_path / "gate"
    with closing(bridge_network("artest0", "10.77.0.0/24", tmp_path)) as network:
        attachment = host.run(network.attach, asked("a"))
        inside = host.container(attachment.netlink)
        without = Path("/proc/sys/net/ipv6/conf/eth0/disable_ipv6")
        if inside.run(without.exists):
            inside.run(without.write_text, "1")
        sink = host.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
        with sink:
            sink.bind((attachment.gateway, 0))
            program = SENDING.format(address=sink.getsockname(), gate=str(gate))

            def counters(container_id: str) -> Mapping[str, Ints] | None:
                return host.run(network.counters, container_id)

            async with metering(driver, tmp_path, network=counters) as meter:
                cgroup = driver.create(name, {})
                await meter.register(MeterSubject(id=name, name="web", cgroup=cgroup))
                init = inside.run(spawn, driver, cgroup, program)
                meter.state(name, "running")
                await until(lambda: bool(sent(meter, name)[0]))
                await trio.to_thread.run_sync(sink.recv, 100)
                await meter.cut(name, "stats")
                before = sent(meter, name)
                gate.touch()
                final = await end(meter, driver, name, cgroup, init)

    octets, packets = (
        new - old for new, old in zip(final.totals.network["eth0"][1:4:2], before, strict=True)
    )
    assert 1000 <= packets <= 1002
    assert octets == 1_042_000 + 42 * (packets - 1000)


def sent(meter: Meter, name: str) -> tuple[int, int]:
    """Bytes and packets that a container has sent, as last read."""
    shown = meter.snapshot(name)
    row = shown.totals.network.get("eth0") if shown is not None else None
    return (row[1], row[3]) if row is not None else (0, 0)


async def test_daemon_gap_is_exact(driver: Driver, tmp_path: Path) -> None:
    """A container that ran and ended while no meter lived is counted to the nanosecond."""
    lost = Meter(str(tmp_path / "ledger.db"), driver)
    await lost.open()
    cgroup, init = await launch(lost, driver, "c1", BUSY.format(seconds=0.2))
    await lost.cut("c1", "start")
    await lost.books.commits.commit()
    abandon(lost)
    await trio.to_thread.run_sync(os.waitid, os.P_PID, init.pid, os.WEXITED | os.WNOWAIT)
    async with metering(driver, tmp_path, known=["c1"]) as meter:
        await meter.resume_registration(MeterSubject(id="c1", name="c1", cgroup=cgroup), "running")
        final = await end(meter, driver, "c1", cgroup, init)

        assert final.totals.cpu_ns == parent_usage(driver)
        assert meter.view().tenants["default"].cpu_ns == parent_usage(driver)


async def test_host_time_is_conserved(driver: Driver, tmp_path: Path) -> None:
    """Attributed and unattributed time together are the growth of the root's counter."""
    root = Path(driver.hierarchy.v1["cpuacct"], "cpuacct.usage")
    earliest = int(root.read_text())
    async with metering(driver, tmp_path) as meter:
        latest = int(root.read_text())
        cgroup, init = await launch(meter, driver, "c1", BUSY.format(seconds=0.5))
        await end(meter, driver, "c1", cgroup, init)
        least = int(root.read_text()) - latest
        split = meter.view().daemon.cpu
        most = int(root.read_text()) - earliest
        assert split is not None

        assert split.attributed_ns == parent_usage(driver)
        assert least - SECOND // 50 <= sum(split) <= most + SECOND // 50


def test_zombie_is_off_the_processor() -> None:
    """The sign the final reading waits for appears, also for a task that died just now."""
    for _ in range(20):
        child = subprocess.Popen(["true"])
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        for _ in range(10_000):
            if process.is_off_cpu(child.pid):
                break
        assert process.is_off_cpu(child.pid)
        child.wait()
