"""Links whose network namespace outlives the container."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pyroute2 import IPRoute

from aruntime.network import bridge as bridges
from aruntime.network import departed
from aruntime.network.attach import Network
from tests.networks import asked, bridge_network

if TYPE_CHECKING:
    from tests.kernel.network.conftest import Host

pytestmark = pytest.mark.kernel

BRIDGE = "artest0"
SUBNET = "10.77.0.0/24"


@pytest.fixture
def network(network_of: Callable[[str, str], Network]) -> Network:
    """Return a network of the private host."""
    return network_of(BRIDGE, SUBNET)


@pytest.fixture
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the kernel no time of its own."""
    monkeypatch.setattr(departed, "GRACE_SECONDS", 0.0)


def test_the_kernel_has_its_time_first(host: Host, network: Network) -> None:
    """Right after the end nothing is due and nothing removed."""
    attachment = host.run(network.attach, asked("a"))
    host.container(attachment.netlink)
    network.release("a" * 64)

    assert not network.departed.is_due()
    assert host.run(network.departed.sweep) == []
    assert host.run(bridges.ports, BRIDGE) == [attachment.host_ifname]


def test_a_kept_link_is_removed(host: Host, network: Network, no_grace: None) -> None:
    """Of two ended containers the one whose namespace lives on; a running one keeps its link."""
    running, kept, gone = (host.run(network.attach, asked(digit)) for digit in "abc")
    for attachment in (running, kept):
        host.container(attachment.netlink)
    network.release(kept.container_id)
    network.release(gone.container_id)  # it had no link yet

    assert network.departed.is_due()
    assert host.run(network.departed.sweep) == [kept.host_ifname]
    assert not network.departed.is_due()
    assert host.run(bridges.ports, BRIDGE) == [running.host_ifname]


def test_a_restart_leaves_one_link(host: Host, network: Network, no_grace: None) -> None:
    """That of the earlier start goes, although the address stays the container's."""
    first = host.run(network.attach, asked("a"))
    host.container(first.netlink)
    second = host.run(network.attach, asked("a"))
    host.container(second.netlink)

    assert host.run(network.departed.sweep) == [first.host_ifname]
    assert host.run(bridges.ports, BRIDGE) == [second.host_ifname]


def test_a_later_daemon_finds_them(
    host: Host, network: Network, tmp_path: Path, no_grace: None
) -> None:
    """By the bridge's ports that no lease knows; ports of other names are left alone."""
    running, kept = (host.run(network.attach, asked(digit)) for digit in "ab")
    for attachment in (running, kept):
        host.container(attachment.netlink)
    network.release(kept.container_id)
    host.run(add_port, "tap0")

    with closing(bridge_network(BRIDGE, SUBNET, tmp_path)) as later:
        host.run(later.ensure)
        assert host.run(later.departed.sweep) == [kept.host_ifname]

    assert sorted(host.run(bridges.ports, BRIDGE)) == sorted(["tap0", running.host_ifname])


def test_ports_of_a_foreign_bridge_are_left(host: Host, network: Network) -> None:
    """They may be another daemon's."""
    host.run(make_bridge, BRIDGE)
    host.run(add_port, "ar0123456789abc")

    host.run(network.ensure)

    assert host.run(bridges.ports, BRIDGE) == ["ar0123456789abc"]
    assert host.run(network.departed.sweep, at_once=True) == []


def test_the_networks_end_waits_for_nothing(host: Host, network: Network) -> None:
    """Removing a network removes the links of its ended containers."""
    attachment = host.run(network.attach, asked("a"))
    host.container(attachment.netlink)
    network.release("a" * 64)

    host.run(network.remove)

    assert attachment.host_ifname not in host.run(link_names)


def make_bridge(name: str) -> None:
    """Make a bridge the way an administrator would."""
    with IPRoute() as ipr:
        ipr.link("add", ifname=name, kind="bridge")


def add_port(name: str) -> None:
    """Give the bridge a port that is no container's."""
    with IPRoute() as ipr:
        bridge = ipr.link_lookup(ifname=BRIDGE)[0]
        ipr.link("add", ifname=name, kind="veth", peer=f"{name[:8]}-peer")
        ipr.link("set", index=ipr.link_lookup(ifname=name)[0], master=bridge)


def link_names() -> list[str]:
    """Return the names of this namespace's links."""
    with IPRoute() as ipr:
        return [link.get_attr("IFLA_IFNAME") for link in ipr.get_links()]
