"""Address leases: never twice, crash-safe, constant time."""

from __future__ import annotations

import os
import random
import secrets
import signal
import subprocess
import time
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aruntime.errors import AddressPoolExhausted, Conflict, InvalidParameter
from aruntime.network.departed import link_name
from aruntime.network.ipam import Leases, Pool

SMALL = IPv4Network("10.0.0.0/28")
GATEWAY = IPv4Address("10.0.0.1")


def leases(directory: Path, subnet: IPv4Network = SMALL) -> Leases:
    """Open the leases of a directory."""
    return Leases(directory, subnet, subnet[1])


def dotted(address: int) -> str:
    """Return an address as text."""
    return str(IPv4Address(address))


class PoolAgainstModel(RuleBasedStateMachine):
    """The pool against a plain set of held addresses, in every order of operations."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = Pool(SMALL, {int(GATEWAY)})
        self.usable = {int(address) for address in SMALL.hosts()} - {int(GATEWAY)}
        self.held: set[int] = set()

    @rule()
    def take(self) -> None:
        """Take any address: a free one, or exhausted exactly when there is none."""
        if self.held == self.usable:
            with pytest.raises(AddressPoolExhausted):
                self.pool.take()
        else:
            address = self.pool.take()
            assert address in self.usable - self.held
            self.held.add(address)

    @rule(offset=st.integers(0, 15))
    def hold(self, offset: int) -> None:
        """Hold a particular address: granted exactly when it is usable and free."""
        address = int(SMALL[offset])
        assert self.pool.hold(address) == (address in self.usable - self.held)
        if address in self.usable:
            self.held.add(address)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        """Release some held address."""
        address = data.draw(st.sampled_from(sorted(self.held)))
        self.pool.release(address)
        self.held.remove(address)

    @invariant()
    def free_ones_can_all_be_had(self) -> None:
        """Nothing is lost: draining the pool yields exactly the free addresses."""
        free = [self.pool.take() for _ in range(len(self.usable) - len(self.held))]
        assert set(free) == self.usable - self.held
        for address in free:
            self.pool.release(address)


TestPoolAgainstModel = PoolAgainstModel.TestCase


def test_a_released_address_rests_longest() -> None:
    """Fresh addresses are used up before a released one, and the longest free comes first."""
    pool = Pool(IPv4Network("10.0.0.0/29"), {int(GATEWAY)})
    first, second = pool.take(), pool.take()
    pool.release(second)
    pool.release(first)

    assert [dotted(pool.take()) for _ in range(5)] == [
        "10.0.0.4",
        "10.0.0.5",
        "10.0.0.6",
        "10.0.0.3",
        "10.0.0.2",
    ]


def test_a_lease_survives_the_daemon(tmp_path: Path) -> None:
    """The next daemon finds who holds what, and gives nobody the same address."""
    before = leases(tmp_path)
    held = before.acquire("a" * 64, "ar1")

    after = leases(tmp_path)

    assert after.get("a" * 64) == held
    assert after.acquire("b" * 64, "ar2").address != held.address


def test_a_container_keeps_its_address(tmp_path: Path) -> None:
    """Acquiring again keeps the address and remembers the new link name, also on disk."""
    opened = leases(tmp_path)
    first = opened.acquire("a" * 64, "ar1")
    second = opened.acquire("a" * 64, "ar2")

    assert second == first._replace(host_ifname="ar2")
    assert leases(tmp_path).all() == [second]


def test_release_frees_and_is_repeatable(tmp_path: Path) -> None:
    """A released lease is gone from disk; releasing it again does nothing."""
    opened = leases(tmp_path)
    lease = opened.acquire("a" * 64, "ar1")

    assert opened.release("a" * 64) == lease
    assert opened.release("a" * 64) is None
    assert leases(tmp_path).all() == []


def test_reconcile_frees_what_leaked(tmp_path: Path) -> None:
    """Leases of containers that no longer live are freed, the others stay."""
    opened = leases(tmp_path)
    for name in "abc":
        opened.acquire(name * 64, f"ar{name}")

    freed = opened.reconcile(["b" * 64, "unknown"])

    assert [lease.container_id[0] for lease in freed] == ["a", "c"]
    assert [lease.container_id[0] for lease in leases(tmp_path).all()] == ["b"]


def test_a_particular_address(tmp_path: Path) -> None:
    """It is given when free, refused with the reason when taken, reserved or elsewhere."""
    opened = leases(tmp_path)
    wanted = IPv4Address("10.0.0.9")

    assert opened.acquire("a" * 64, "ar1", wanted).address == int(wanted)
    with pytest.raises(Conflict, match=r"10\.0\.0\.9 is already in use"):
        opened.acquire("b" * 64, "ar2", wanted)
    with pytest.raises(Conflict):
        opened.acquire("b" * 64, "ar2", GATEWAY)
    with pytest.raises(InvalidParameter, match=r"10\.0\.1\.9 is not in subnet"):
        opened.acquire("b" * 64, "ar2", IPv4Address("10.0.1.9"))
    with pytest.raises(Conflict, match="stop it before"):
        opened.acquire("a" * 64, "ar1", IPv4Address("10.0.0.10"))


def test_exhausted(tmp_path: Path) -> None:
    """All thirteen addresses of a /28 behind a gateway are given, the next is refused."""
    opened = leases(tmp_path)
    given_out = {opened.acquire(f"{n:064x}", f"ar{n}").address for n in range(13)}

    assert len(given_out) == 13
    with pytest.raises(AddressPoolExhausted, match=r"no free address in 10\.0\.0\.0/28"):
        opened.acquire("e" * 64, "ar14")


def test_two_daemons_on_one_directory(tmp_path: Path) -> None:
    """Not meant to happen, but even then no address is given twice."""
    one, two = leases(tmp_path), leases(tmp_path)
    given_out = [
        opened.acquire(f"{n}-{place}", f"ar{n}").address
        for n in range(6)
        for place, opened in enumerate((one, two))
    ]

    assert len(set(given_out)) == 12


def test_a_usual_lease_lies_in_the_inode(tmp_path: Path) -> None:
    """Short enough that no file system finds a block for it, and read as what was written."""
    holder = secrets.token_hex(32)
    kept = leases(tmp_path).acquire(holder, link_name(holder))
    (written,) = tmp_path.iterdir()

    assert len(os.readlink(written)) < 60
    assert leases(tmp_path).all() == [kept]
    assert kept.container_id == holder


def test_a_lease_of_an_earlier_release(tmp_path: Path) -> None:
    """It had the id as it is, and every word."""
    (tmp_path / "10.0.0.3").symlink_to(f"{'a' * 64} ar3 eth0 - -")
    (tmp_path / "10.0.0.4").symlink_to(f"{'b' * 64} ar4 eth1 02:42:0a:00:00:09 -")
    first, second = leases(tmp_path).all()

    assert (first.container_id, first.host_ifname, first.interface) == ("a" * 64, "ar3", "eth0")
    assert (second.container_id, second.interface) == ("b" * 64, "eth1")
    assert second.mac == bytes.fromhex("02420a000009")


def test_what_is_no_lease_is_removed(tmp_path: Path) -> None:
    """Leftovers, foreign files, addresses of another subnet and doubled holders go on opening."""
    kept = leases(tmp_path).acquire("a" * 64, "ar1")
    (tmp_path / ".10.0.0.7").symlink_to("a ar2")
    (tmp_path / "10.0.0.8").touch()
    (tmp_path / "10.0.0.9").symlink_to("noname")
    (tmp_path / "10.0.0.3").symlink_to(f"{'a' * 64} ar3")
    (tmp_path / "192.168.0.1").symlink_to(f"{'b' * 64} ar4")

    assert leases(tmp_path).all() == [kept]
    assert os.listdir(tmp_path) == [dotted(kept.address)]


def test_a_lease_that_cannot_be_written_is_not_held(tmp_path: Path) -> None:
    """A failing disk is an OSError, and the address stays free."""
    directory = tmp_path / "leases"
    opened = leases(directory)
    directory.rmdir()

    with pytest.raises(FileNotFoundError):
        opened.acquire("a" * 64, "ar1")

    directory.mkdir()
    assert opened.get("a" * 64) is None
    assert len({opened.acquire(f"{n}", "ar1").address for n in range(13)}) == 13


def test_large_pool_needs_no_scan() -> None:
    """In a /16 that is all but full, an allocation costs microseconds and not a scan."""
    subnet = IPv4Network("10.8.0.0/16")
    pool = Pool(subnet, {int(subnet[1])})
    held = [pool.take() for _ in range(65_533)]
    random.Random(1).shuffle(held)

    before = time.thread_time_ns()  # CPU, so that a busy machine does not fail it
    for address in held[:1000]:
        pool.release(address)
    again = [pool.take() for _ in range(1000)]
    spent = time.thread_time_ns() - before

    assert again == held[:1000]
    assert spent / 1000 < 50_000


CHURN = """
import sys
from ipaddress import IPv4Network
from pathlib import Path
from aruntime.network.ipam import Leases
subnet = IPv4Network("10.0.0.0/28")
leases = Leases(Path(sys.argv[1]), subnet, subnet[1])
print("ready", flush=True)
n = 0
while True:
    leases.acquire(f"{n % 10}", f"ar{n}")
    leases.acquire(f"{n % 10}", f"ar{n}x")
    leases.release(f"{(n + 5) % 10}")
    n += 1
"""


def test_killed_at_any_moment(tmp_path: Path, interpreter: str) -> None:
    """SIGKILL in the middle of leasing leaves whole leases, each address once, and room again."""
    moments = random.Random(2)
    for _ in range(8):
        process = subprocess.Popen(
            [interpreter, "-c", CHURN, str(tmp_path)], stdout=subprocess.PIPE
        )
        with process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            deadline = time.monotonic() + moments.uniform(0, 0.01)
            while time.monotonic() < deadline:
                pass
            process.send_signal(signal.SIGKILL)

        found = leases(tmp_path)
        addresses = [lease.address for lease in found.all()]
        assert len(set(addresses)) == len(addresses) <= 11
        assert sorted(os.listdir(tmp_path)) == sorted(map(dotted, addresses))
        assert all(lease.host_ifname.startswith("ar") for lease in found.all())
