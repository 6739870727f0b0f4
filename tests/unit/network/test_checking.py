"""What check finds in leases that were damaged on purpose, each way, and how it mends them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aruntime.network import Networks, checking, default_definition, store
from aruntime.network.checking import Finding, Report, Resident
from aruntime.network.definition import Definition

WEB = Resident("a" * 64, "web", ("bridge",))
DATABASE = Resident("b" * 64, "database", ("bridge",))
STOPPED = Resident("c" * 64, "stopped", ())
LEASES = "networks/br0/leases"

Open = Callable[[], Networks]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Return what opens the networks of a directory with leases for web and database."""
    directory = tmp_path / LEASES
    directory.mkdir(parents=True)
    (directory / "10.0.0.2").symlink_to(f"{WEB.id} ar00000001 eth0 - -")
    (directory / "10.0.0.3").symlink_to(f"{DATABASE.id} ar00000002")  # as earlier releases wrote it
    made: list[Networks] = []

    def opening() -> Networks:
        networks = Networks(default_definition("br0", "10.0.0.0/24"), tmp_path)
        for definition in store.load_all(networks.root)[0]:
            networks._take_over(definition)
        made.append(networks)
        return networks

    yield opening
    for networks in made:
        networks.close()


def check(networks: Networks, *residents: Resident) -> Report:
    """Look once."""
    return checking.check(networks, lambda: residents or (WEB, DATABASE, STOPPED))


def only(report: Report) -> Finding:
    """Return the one thing that was found."""
    [finding] = report.findings
    return finding


def mend(finding: Finding) -> str:
    """Repair what was found."""
    assert finding.mend is not None
    return finding.mend()


def test_whole_leases_are_clean(opened: Open) -> None:
    """Those of earlier releases too."""
    assert check(opened()) == Report((), networks=1, leases=2)


def test_a_lease_of_nobody(opened: Open) -> None:
    """The address is free once it is mended."""
    networks = opened()

    finding = only(check(networks, WEB))

    assert finding.what == (
        "10.0.0.3 of network bridge is held for container bbbbbbbbbbbb, which does not exist"
    )
    assert mend(finding) == "freed 10.0.0.3 of network bridge"
    assert check(networks, WEB) == Report((), networks=1, leases=1)
    assert networks.default.lookup(DATABASE.id) is None


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (f"{'d' * 64} ar00000004 eth0 - -", "container dddddddddddd, which does not exist"),
        (f"{WEB.id} ar00000004 eth0 - -", "container web, which has 10.0.0.2 there"),
        (f"{STOPPED.id} ar00000004 eth0 - -", "container stopped, which has no address there"),
    ],
)
def test_a_lease_that_the_daemon_does_not_know(
    opened: Open, tmp_path: Path, target: str, said: str
) -> None:
    """It would keep its address from everybody."""
    networks = opened()
    path = tmp_path / LEASES / "10.0.0.9"
    path.symlink_to(target)

    finding = only(check(networks))

    assert finding.what == f"10.0.0.9 of network bridge is held for {said}"
    mend(finding)
    assert not path.is_symlink()
    assert check(networks).findings == ()


def test_what_cannot_be_read(opened: Open, tmp_path: Path) -> None:
    """Files, directories and links that are no leases."""
    networks = opened()
    directory = tmp_path / LEASES
    (directory / "10.0.0.7").write_text("not a link")
    (directory / "10.0.0.8" / "more").mkdir(parents=True)
    (directory / "note").symlink_to("one two three")

    found = check(networks).findings

    assert [one.what for one in found] == [
        f"{directory / name} is no lease: it cannot be read"
        for name in ("10.0.0.7", "10.0.0.8", "note")
    ]
    for one in found:
        mend(one)
    assert check(networks) == Report((), networks=1, leases=2)


def test_a_cut_off_write_is_no_harm(opened: Open, tmp_path: Path) -> None:
    """It only lies about."""
    networks = opened()
    (tmp_path / LEASES / ".10.0.0.2").symlink_to(f"{WEB.id} ar00000009 eth0 - -")

    finding = only(check(networks))

    assert not finding.grave
    mend(finding)
    assert check(networks).findings == ()


def gone(path: Path) -> None:
    """Remove a lease."""
    path.unlink()


def garbled(path: Path) -> None:
    """Make a lease unreadable."""
    path.unlink()
    path.write_text("\0")


def blocked(path: Path) -> None:
    """Put a directory in place of a lease."""
    path.unlink()
    path.mkdir()


def taken(path: Path) -> None:
    """Let a lease be another container's."""
    path.unlink()
    path.symlink_to(f"{STOPPED.id} ar00000001 eth0 - -")


@pytest.mark.parametrize("spoil", [gone, garbled, blocked, taken])
def test_a_running_containers_lease_is_written_again(
    opened: Open, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    """What runs keeps its address, also over the next daemon's start."""
    networks = opened()
    spoil(tmp_path / LEASES / "10.0.0.2")

    finding = only(check(networks))

    assert finding.what.startswith("the lease of 10.0.0.2 of network bridge for container web is ")
    assert finding.what.endswith("the address could be given to two")
    assert mend(finding) == "wrote the lease of 10.0.0.2 of network bridge again"
    assert check(networks).findings == ()
    place = opened().default.lookup(WEB.id)
    assert place == networks.default.lookup(WEB.id)


def test_a_lease_of_a_container_that_ended_meanwhile_is_not_left(
    opened: Open, tmp_path: Path
) -> None:
    """A repair that comes too late leaves nothing behind."""
    networks = opened()
    path = tmp_path / LEASES / "10.0.0.2"
    path.unlink()
    finding = only(check(networks))
    networks.default.release(WEB.id)

    assert mend(finding) == "10.0.0.2 of network bridge was given back"
    assert not path.is_symlink()


def test_a_container_that_runs_without_an_address(opened: Open, tmp_path: Path) -> None:
    """Its lease was lost before this daemon started: only a restart helps."""
    (tmp_path / LEASES / "10.0.0.3").unlink()

    finding = only(check(opened()))

    assert finding.what == (
        "container database runs in network bridge and holds no address there: what it has can be"
        " given to another"
    )
    assert finding.advice == "'aruntime restart database' gives it one"
    assert finding.mend is None


def add_network(root: Path, name: str, subnet: str, gateway: str, **leases: str) -> None:
    """Write the record of a user's network, and its leases."""
    directory = root / "networks" / name
    (directory / "leases").mkdir(parents=True)
    bridge = f"br-{name}"
    store.save(
        directory,
        Definition(id="1" * 64, name=name, bridge=bridge, subnet=subnet, gateway=gateway),
    )
    for container_id, address in leases.items():
        (directory / "leases" / address).symlink_to(f"{container_id} ar00000007 eth1 - -")


def test_an_address_with_two_owners(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Across networks, and the gateways' count too; nothing is taken from anybody."""
    monkeypatch.setattr("aruntime.network.attach.Network.ensure", lambda _: [])
    add_network(tmp_path, "other", "10.0.0.0/28", "10.0.0.1", **{STOPPED.id: "10.0.0.3"})

    found = check(opened()).findings

    assert [one.what for one in found] == [
        "10.0.0.1 has two owners: network bridge itself and network other itself",
        "10.0.0.3 has two owners: container database in network bridge and container stopped in"
        " network other",
    ]
    assert all(one.grave and one.mend is None for one in found)


def test_a_network_whose_record_is_damaged(opened: Open, tmp_path: Path) -> None:
    """A person has to say what it was."""
    networks = opened()
    (tmp_path / "networks/backend").mkdir()
    (tmp_path / "networks/backend/config.json").write_text("{")

    finding = only(check(networks))

    assert finding.what.startswith(f"a network is lost: {tmp_path}/networks/backend/config.json is")
    assert finding.mend is None


def test_what_was_passing_is_not_told(opened: Open, tmp_path: Path) -> None:
    """A start or an end may be seen half; what two looks find is so."""
    networks = opened()
    path = tmp_path / LEASES / "10.0.0.9"
    path.symlink_to(f"{STOPPED.id} ar00000004 eth0 - -")
    os.unlink(tmp_path / LEASES / "10.0.0.2")
    first = check(networks)
    path.unlink()

    found = checking.lasting(first, check(networks))

    assert len(first.findings) == 2
    assert only(found).what.startswith("the lease of 10.0.0.2 ")
