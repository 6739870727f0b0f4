"""A daemon to be killed: meters counters that go on counting, and commits all the time.

Run by test_totals_crash with the ledger, a file of counters (the "kernel": a shared mapping, so
its content outlives SIGKILL) and a seed. Prints the committed total after each commit and never
ends by itself.
"""

from __future__ import annotations

import mmap
import random
import struct
import sys

from aruntime.metering.account import Reading
from aruntime.metering.integrals import advance, begin, bridge_gap
from aruntime.metering.ledger_file import LedgerFile
from aruntime.metering.totals import Record

CONTAINERS = 5
_COUNTER = struct.Struct("<Q")


def main(ledger: str, counters: str, seed: int) -> None:
    """Meter for ever."""
    dice = random.Random(seed)
    file = LedgerFile(ledger)
    file.open()
    with open(counters, "r+b") as backing:
        kernel = mmap.mmap(backing.fileno(), 0)

    def count(place: int, more: int) -> int:
        value: int = _COUNTER.unpack_from(kernel, place * 8)[0] + more
        _COUNTER.pack_into(kernel, place * 8, value)
        return value

    accounts = {}
    for number in range(CONTAINERS):
        now = count(CONTAINERS, 1)
        known = begin(file.durable.accounts.get(f"c{number}"), "boot:1", now, is_new=False)
        reading = Reading(now, count(number, 0), 4096)
        bridged = bridge_gap(known, reading, "running", now)
        accounts[f"c{number}"] = advance(bridged, reading, cores=1 << 40).account
    while True:
        number = dice.randrange(CONTAINERS)
        reading = Reading(count(CONTAINERS, 7), count(number, dice.randrange(1 << 20)), 4096)
        name = f"c{number}"
        accounts[name] = advance(accounts[name], reading, cores=1 << 40).account
        if dice.random() < 0.5:
            picked = dice.sample(sorted(accounts), dice.randint(1, CONTAINERS))
            file.write([Record(one, f"t{one[1:]}", accounts[one], "poll") for one in picked])
            durable = sum(tenant.cpu_ns for tenant in file.durable.tenants.values())
            sys.stdout.write(f"{durable}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
