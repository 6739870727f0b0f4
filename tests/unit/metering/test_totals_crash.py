"""SIGKILL at random instants loses nothing, doubles nothing, lowers nothing."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
import time
from pathlib import Path

from aruntime.metering.account import Reading
from aruntime.metering.integrals import advance
from aruntime.metering.ledger_file import LedgerFile
from aruntime.metering.totals import Record

KILLS = int(os.environ.get("ARUNTIME_KILLS", "20"))
CONTAINERS = 5
PROGRAM = Path(__file__).with_name("crashing_meter.py")


def kill_once(ledger: Path, counters: Path, seed: int) -> int:
    """Start the meter, kill it at a random instant; the last total it told to be committed."""
    dice = random.Random(seed)
    with subprocess.Popen(
        [sys.executable, str(PROGRAM), str(ledger), str(counters), str(seed)],
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(dice.randint(1, 20))]
        time.sleep(dice.random() / 500)  # the instant of the crash, anywhere in a commit or not
        process.kill()
        lines += process.stdout.read().splitlines(keepends=True)
    return max(int(line) for line in lines if line.endswith(b"\n"))


def kernel_counters(counters: Path) -> tuple[int, ...]:
    """The counters as they stand: CPU of each container, then the clock."""
    return struct.unpack(f"<{CONTAINERS + 1}Q", counters.read_bytes())


def test_kills_lose_nothing(tmp_path: Path) -> None:
    """After each kill totals fit accounts and have not fallen; at the end they are the kernel's."""
    ledger, counters = tmp_path / "ledger.db", tmp_path / "counters"
    counters.write_bytes(bytes(8 * (CONTAINERS + 1)))
    before: dict[str, int] = {}
    for seed in range(KILLS):
        told = kill_once(ledger, counters, seed)
        file = LedgerFile(str(ledger))
        file.open()
        tenants = {name: totals.cpu_ns for name, totals in file.durable.tenants.items()}
        accounts = file.durable.accounts
        file.close()

        assert {f"t{name[1:]}": a.totals.cpu_ns for name, a in accounts.items()} == tenants
        assert sum(tenants.values()) >= told
        assert all(tenants[name] >= value for name, value in before.items()), f"seed {seed}"
        before = tenants
    *cpu, clock = kernel_counters(counters)
    file = LedgerFile(str(ledger))
    file.open()
    try:
        file.write(
            Record(name, f"t{name[1:]}", advance(account, reading, cores=1 << 40).account, "exit")
            for name, account in file.durable.accounts.items()
            for reading in [Reading(clock, cpu[int(name[1:])], 0)]
        )

        assert len(cpu) == len(file.durable.accounts)
        assert cpu == [file.durable.tenants[f"t{number}"].cpu_ns for number in range(CONTAINERS)]
        assert sum(cpu) > 0
    finally:
        file.close()
