"""The ledger on a file system that is really full, and gets room again."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from aruntime.errors import Unavailable
from aruntime.kernel import mounts
from aruntime.metering.account import Account, Totals
from aruntime.metering.ledger_file import LedgerFile
from aruntime.metering.totals import Record

pytestmark = pytest.mark.kernel

SIZE = 512 << 10


@pytest.fixture(name="small")
def _small(tmp_path: Path) -> Iterator[Path]:
    """A directory on a file system of half a MiB."""
    path = tmp_path / "small"
    path.mkdir()
    try:
        mounts.mount("tmpfs", str(path), "tmpfs", 0, f"size={SIZE}")
    except PermissionError:
        pytest.skip("needs the right to mount: run as root")
    yield path
    mounts.umount2(str(path), 0)


def records(cpu_ns: int) -> list[Record]:
    """Many containers that have each used some CPU."""
    return [
        Record(f"c{number}", "acme", Account(totals=Totals(cpu_ns=cpu_ns)), "poll")
        for number in range(200)
    ]


def fill(directory: Path) -> Path:
    """Take all the room there is."""
    filler = directory / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return filler


def test_full_disk_costs_nothing_but_patience(small: Path) -> None:
    """Refused commits are counted in memory and written when there is room, once."""
    file = LedgerFile(str(small / "ledger.db"))
    file.open()
    try:
        assert file.write(records(1)) is None
        filler = fill(small)
        errors = [file.write(records(cpu_ns)) for cpu_ns in (2, 3)]

        assert all(isinstance(error, sqlite3.OperationalError) for error in errors)
        assert file.durable.tenants["acme"].cpu_ns == 200
        assert len(file.durable.unwritten) == 200

        filler.unlink()

        assert file.write([]) is None
        assert file.durable.tenants["acme"].cpu_ns == 600
    finally:
        file.close()
    again = LedgerFile(str(small / "ledger.db"))
    again.open()
    try:
        assert again.durable.tenants["acme"].cpu_ns == 600
        assert again.durable.tenants["acme"].containers == 200
    finally:
        again.close()


def test_no_room_for_a_ledger_is_one_line(small: Path) -> None:
    """On a full disk a new ledger cannot be made, and the error says what to do."""
    fill(small)

    with pytest.raises(Unavailable, match="check the disk"):
        LedgerFile(str(small / "ledger.db")).open()
