"""Who is called what, as each container sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aruntime.network.definition import DEFAULT
from aruntime.network.endpoints import Endpoint, Endpoints
from aruntime.network.names import Directory, View

WEB, DATABASE, OTHER = "a" * 64, "b" * 64, "c" * 64


def endpoint(
    container_id: str,
    place: int,
    name: str = "",
    *,
    network: str = "shop",
    aliases: Sequence[str] = (),
    ip6: str = "",
) -> Endpoint:
    """Return an endpoint in 10.N.0.0/24, N told by the length of the network's name."""
    base = f"10.{len(network)}.0"
    return Endpoint(
        network=network, container_id=container_id, name=name, aliases=tuple(aliases),
        ip=f"{base}.{place}", prefix=24, gateway=f"{base}.1", mac="02:42:00:00:00:01",
        ip6=ip6, prefix6=64 if ip6 else 0, host_ifname=f"ar{place}",
    )  # fmt: skip


@pytest.fixture
def directory() -> Directory:
    """Return a directory of two containers in a network and one in another."""
    made = Directory()
    made.changed("connect", endpoint(WEB, 2, "Web", aliases=["www"]))
    made.changed("connect", endpoint(DATABASE, 3, "db", aliases=["www"], ip6="fd00::3"))
    made.changed("connect", endpoint(OTHER, 2, "db", network="attic"))
    return made


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("web", ["10.4.0.2"]),
        ("WEB", ["10.4.0.2"]),
        ("web.shop", ["10.4.0.2"]),
        ("web.SHOP", ["10.4.0.2"]),
        (WEB[:12], ["10.4.0.2"]),
        ("db", ["10.4.0.3", "fd00::3"]),
        ("www", ["10.4.0.2", "10.4.0.3", "fd00::3"]),
        ("web.attic", None),
        ("db.attic", None),
        ("shop", None),
        ("", None),
        (WEB, None),
    ],
)
def test_names_of_a_container_in_its_network(
    directory: Directory, name: str, found: list[str] | None
) -> None:
    """Names, aliases and short ids, bare or with the network, in any case; of no other network."""
    assert View(directory, WEB).addresses(name) == found


def test_addresses_tell_names(directory: Directory) -> None:
    """By either address, within the network only; what DNS cannot say is told by the short id."""
    assert directory.name_at(WEB, "10.4.0.3") == "db.shop"
    assert directory.name_at(WEB, "fd00::3") == "db.shop"
    assert directory.name_at(WEB, "10.5.0.2") is None
    assert directory.name_at(OTHER, "10.4.0.3") is None
    directory.changed("connect", endpoint("d" * 64, 9, "x" * 64))
    assert directory.name_at(WEB, "10.4.0.9") == f"{'d' * 12}.shop"
    directory.changed("connect", endpoint("e" * 64, 10))
    assert directory.name_at(WEB, "10.4.0.10") == f"{'e' * 12}.shop"


def test_who_asks_is_told_by_its_address(directory: Directory) -> None:
    """An address is a client in its own network and nowhere else."""
    assert directory.client("shop", "10.4.0.3") == DATABASE
    assert directory.client("shop", "10.5.0.2") is None
    assert directory.client("shop", "10.4.0.1") is None


def test_what_belongs_to_a_network(directory: Directory) -> None:
    """Every address of its subnets, nobody's too."""
    view = View(directory, DATABASE)
    assert [view.covers(ip_address(one)) for one in ("10.4.0.77", "fd00::77")] == [True, True]
    assert [view.covers(ip_address(one)) for one in ("10.5.0.2", "fd01::3")] == [False, False]
    assert not View(directory, "f" * 64).covers(ip_address("10.4.0.2"))


def test_the_first_network_answers_first(directory: Directory) -> None:
    """A container in two networks knows the names of both, those of the first one first."""
    directory.changed("connect", endpoint(WEB, 7, "web", network="attic"))

    assert directory.networks_of(WEB) == ["shop", "attic"]
    assert directory.addresses(WEB, "db") == ["10.4.0.3", "fd00::3"]
    assert directory.addresses(WEB, "db.attic") == ["10.5.0.2"]


def test_the_default_network_has_no_names() -> None:
    """Docker's rule."""
    directory = Directory()
    directory.changed("connect", endpoint(WEB, 2, "web", network=DEFAULT))

    assert not directory.is_used(DEFAULT)
    assert directory.addresses(WEB, "web") is None


def test_a_name_that_is_taken_over() -> None:
    """The registry tells the going of a former endpoint first: nothing of it stays."""
    endpoints, directory = Endpoints(), Directory()
    endpoints.listen(directory.changed)
    endpoints.add(endpoint(WEB, 2, "old"))
    endpoints.add(replace(endpoint(WEB, 3, "new")))

    assert directory.addresses(WEB, "old") is None
    assert directory.addresses(WEB, "new") == ["10.4.0.3"]
    assert directory.client("shop", "10.4.0.2") is None


@given(
    st.lists(
        st.tuples(
            st.booleans(), st.sampled_from("abc"), st.integers(2, 4), st.sampled_from(["n", "m"])
        ),
        max_size=30,
    )
)
def test_nothing_stays_of_what_went(steps: list[tuple[bool, str, int, str]]) -> None:
    """After any comings and goings, and the going of the rest, the directory is empty."""
    endpoints, directory = Endpoints(), Directory()
    endpoints.listen(directory.changed)
    for comes, digit, place, network in steps:
        if comes:
            aliases = [f"alias{place}"]
            made = endpoint(digit * 64, place, f"name{place}", network=network, aliases=aliases)
            endpoints.add(made)
        else:
            endpoints.remove(digit * 64, network)
    for network in ("n", "m"):
        standing = endpoints.on(network)
        assert directory.is_used(network) == bool(standing)
        for one in standing:
            assert one.ip in (directory.addresses(one.container_id, f"{one.name}.{network}") or ())
            endpoints.remove(one.container_id, network)

    assert not any(
        (directory._named, directory._placed, directory._of, directory._counts),
    )
