"""Real bridges, veth pairs, nftables tables and packets in private network namespaces."""

from __future__ import annotations

import socket
import struct
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pyroute2 import IPRoute

from aruntime.errors import AddressPoolExhausted, Conflict, Unavailable
from aruntime.kernel import netlink
from aruntime.network import attach, nat, nft
from aruntime.network import bridge as bridges
from aruntime.network.attach import Network
from aruntime.network.encode import without_network
from aruntime.network.nfnetlink import NfTables, Table
from tests.networks import asked, bridge_network, numbered

if TYPE_CHECKING:
    import _socket

    from tests.kernel.network.conftest import Host, Netns

NetworkOf = Callable[[str, str], Network]

pytestmark = pytest.mark.kernel

SUBNET = "10.77.0.0/24"
TIMEOUT = 5.0
NAMESPACE_END_SECONDS = 60.0
"""The kernel takes namespaces apart in turn, those of earlier tests first."""
RTMGRP_LINK = 1
RTM_DELLINK = 17


def link(name: str) -> Any:
    """Return a link of this namespace as pyroute2 shows it."""
    with IPRoute() as ipr:
        return next(iter(ipr.get_links(ipr.link_lookup(ifname=name)[0])))


def addresses(name: str, family: int = socket.AF_INET) -> list[str]:
    """Return the addresses of a link of this namespace."""
    with IPRoute() as ipr:
        index = ipr.link_lookup(ifname=name)[0]
        found = ipr.get_addr(family=family, index=index)
        return [f"{one.get_attr('IFA_ADDRESS')}/{one['prefixlen']}" for one in found]


def listen(address: str) -> socket.socket:
    """Open a listening TCP socket in this namespace."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.create_server((address, 0), family=family)
    listener.settimeout(TIMEOUT)
    return listener


def talk(server: Netns, client: Netns, address: str, bind: str | None = None) -> str:
    """Connect from one namespace to another, pass a byte, return the address the server saw."""
    with server.run(listen, bind or address) as listener:
        port = listener.getsockname()[1]
        connection = client.run(socket.create_connection, (address, port), TIMEOUT)
        accepted, (peer, *_) = listener.accept()
        with connection, accepted:
            accepted.sendall(b"x")
            assert connection.recv(1) == b"x"
    return str(peer)


def ruleset() -> str:
    """Return everything nftables holds in this namespace."""
    finished = subprocess.run(
        ["/usr/sbin/nft", "list", "ruleset"], capture_output=True, text=True, check=True
    )
    return finished.stdout


def is_table() -> bool:
    """Return whether the table of the tests' network is in this namespace."""
    with closing(NfTables()) as tables:
        return tables.is_table(Table("ip", "artest0"))


@pytest.fixture
def network(network_of: NetworkOf) -> Network:
    """Return a network of the private host."""
    return network_of("artest0", SUBNET)


def test_containers_reach_each_other_and_the_host(host: Host, network: Network) -> None:
    """Two containers and the gateway talk TCP in every direction with their own addresses."""
    first, second = host.run(network.attach, asked("a")), host.run(network.attach, asked("b"))
    one, two = host.container(first.netlink), host.container(second.netlink)

    assert (first.ip, second.ip, first.gateway) == ("10.77.0.2", "10.77.0.3", "10.77.0.1")
    assert talk(two, one, second.ip) == first.ip
    assert talk(one, two, first.ip) == second.ip
    assert talk(one, host, first.ip) == first.gateway
    assert talk(host, one, first.gateway) == first.ip


def test_attach_makes_the_links_it_announces(host: Host, network: Network) -> None:
    """The links carry the names, index, hardware address, MTU and master that attach told."""
    attachment = host.run(network.attach, asked("a"))
    container = host.container(attachment.netlink)

    outer = host.run(link, attachment.host_ifname)
    inner = container.run(link, "eth0")
    master = host.run(link, "artest0")["index"]

    assert outer["index"] == attachment.host_ifindex
    assert outer.get_attr("IFLA_MASTER") == master
    assert outer.get_attr("IFLA_OPERSTATE") == inner.get_attr("IFLA_OPERSTATE") == "UP"
    assert inner.get_attr("IFLA_ADDRESS") == attachment.mac == "02:42:0a:4d:00:02"
    assert outer.get_attr("IFLA_MTU") == inner.get_attr("IFLA_MTU") == 1500
    assert container.run(addresses, "eth0") == ["10.77.0.2/24"]


def test_an_idle_container_is_counted_nothing(host: Host, network: Network) -> None:
    """No IPv6 chatter: no end of the link, nor the bridge, has a link-local address or sends."""
    attachment = host.run(network.attach, asked("a"))
    container = host.container(attachment.netlink)

    assert container.run(addresses, "eth0", socket.AF_INET6) == []
    assert host.run(addresses, attachment.host_ifname, socket.AF_INET6) == []
    assert host.run(addresses, "artest0", socket.AF_INET6) == []
    assert container.run(addresses, "lo", socket.AF_INET6) == ["::1/128"]


def test_dropping_the_namespace_removes_the_link(host: Host, network: Network) -> None:
    """The host end goes with the container's network namespace; nobody deletes it."""
    attachment = host.run(network.attach, asked("a"))
    container = host.container(attachment.netlink)
    assert host.run(bridges.ports, "artest0") == [attachment.host_ifname]

    with closing(host.run(monitor_links)) as monitor:
        container.close()
        wait_for_deleted_link(monitor, attachment.host_ifindex)

    assert host.run(bridges.ports, "artest0") == []


def monitor_links() -> _socket.socket:
    """Open a netlink socket that is told of every change of a link in this namespace."""
    monitor = netlink.open_socket()
    monitor.bind((0, RTMGRP_LINK))
    monitor.settimeout(NAMESPACE_END_SECONDS)
    return monitor


def wait_for_deleted_link(monitor: _socket.socket, index: int) -> None:
    """Read link events until this link is gone."""
    while True:
        _, kind, _, _, _, _, changed = struct.unpack_from("=IHHIIIi", monitor.recv(65536))
        if kind == RTM_DELLINK and changed == index:
            return


def test_masquerade_to_a_third_namespace(host: Host, network: Network) -> None:
    """A container reaches a machine beyond the host, which sees the host's address."""
    outside = beyond(host)
    container = host.container(host.run(network.attach, asked("a")).netlink)

    assert talk(outside, container, "192.0.2.2") == "192.0.2.1"


def test_nobody_beyond_the_host_opens_a_connection_inward(host: Host, network: Network) -> None:
    """A machine with a route to the subnet cannot reach a container."""
    outside = beyond(host)
    attachment = host.run(network.attach, asked("a"))
    container = host.container(attachment.netlink)
    outside.run(add_route, SUBNET, "192.0.2.1")

    with container.run(listen, attachment.ip) as listener:
        address = (attachment.ip, listener.getsockname()[1])
        with pytest.raises(TimeoutError):
            outside.run(socket.create_connection, address, 0.3)
        with host.run(socket.create_connection, address, TIMEOUT):
            pass


def beyond(host: Host) -> Netns:
    """Return a namespace on the far side of the host, 192.0.2.2, the host being 192.0.2.1."""
    outside = host.netns()
    with host.run(open, "/proc/thread-self/ns/net", "rb") as netns:
        outside.run(make_pair, "wan0", "wan1", netns.fileno())
    outside.run(bring_up, "wan0", "192.0.2.2")
    host.run(bring_up, "wan1", "192.0.2.1")
    return outside


def make_pair(name: str, peer: str, netns_fd: int) -> None:
    """Make a veth pair here, its peer in the namespace of the descriptor."""
    with IPRoute() as ipr:
        ipr.link("add", ifname=name, kind="veth", peer={"ifname": peer, "net_ns_fd": netns_fd})


def bring_up(name: str, address: str) -> None:
    """Give a link an address and bring it up."""
    with IPRoute() as ipr:
        index = ipr.link_lookup(ifname=name)[0]
        ipr.addr("add", index=index, address=address, prefixlen=24)
        ipr.link("set", index=index, state="up")


def add_route(subnet: str, gateway: str) -> None:
    """Add a route in this namespace."""
    with IPRoute() as ipr:
        ipr.route("add", dst=subnet, gateway=gateway)


def test_ensure_reports_and_is_idempotent(host: Host, network: Network) -> None:
    """The first call says what it made, the second has nothing to say and changes nothing."""
    host.run(bridges.FORWARDING.write_text, "0\n")  # a new namespace has it as the real host has it
    changes = host.run(network.ensure)
    before = host.run(ruleset), host.run(link, "artest0")["index"]

    assert changes == [
        "made bridge artest0",
        "let artest0 ignore router advertisements",
        "gave artest0 the address 10.77.0.1/24",
        "brought artest0 up",
        "set net.ipv4.ip_forward to 1",
        "wrote nftables table ip artest0",
        "wrote nftables table bridge artest0",
    ]
    assert host.run(network.ensure) == []
    assert (host.run(ruleset), host.run(link, "artest0")["index"]) == before


def test_a_bridge_deleted_by_hand_is_repaired(host: Host, network: Network) -> None:
    """The next attach after somebody deleted the bridge makes it anew."""
    host.run(network.ensure)
    host.run(bridges.remove, "artest0", network.gateway)

    attachment = host.run(network.attach, asked("a"))
    container = host.container(attachment.netlink)

    assert talk(host, container, attachment.gateway) == attachment.ip


class Killed(BaseException):
    """Stands for the daemon's death: nothing of ours catches it."""


def mortal(lives: int) -> Callable[[], IPRoute]:
    """Return a maker of netlink sockets that end with Killed once ``lives`` changes were made."""
    left = lives

    def counted(change: Callable[..., Any]) -> Callable[..., Any]:
        def change_or_die(command: str, **request: Any) -> Any:
            nonlocal left
            if command in {"add", "set", "del"}:
                if not left:
                    raise Killed
                left -= 1
            return change(command, **request)

        return change_or_die

    def open_mortal() -> IPRoute:
        ipr = IPRoute()
        ipr.link, ipr.addr = counted(ipr.link), counted(ipr.addr)
        return ipr

    return open_mortal


@pytest.mark.parametrize("lives", range(5))
def test_killed_between_any_two_steps(
    host: Host, network: Network, network_of: NetworkOf, monkeypatch: pytest.MonkeyPatch, lives: int
) -> None:
    """A daemon that dies inside ensure leaves what the next one completes, and can remove."""
    with monkeypatch.context() as dying:
        dying.setattr("pyroute2.IPRoute", mortal(lives))
        dying.setattr(nft, "run", die)  # the step after the bridge
        with pytest.raises(Killed):
            host.run(network.ensure)
    assert ("artest0" in host.run(link_names)) == (lives > 0)

    successor = network_of("artest0", SUBNET)
    attachment = host.run(successor.attach, asked("a"))
    container = host.container(attachment.netlink)
    assert talk(host, container, attachment.gateway) == attachment.ip
    assert host.run(link, "artest0").get_attr("IFLA_IFALIAS") == bridges.ALIAS

    host.run(successor.remove)
    assert host.run(ruleset) == ""
    assert "artest0" not in host.run(link_names)


@pytest.mark.parametrize("lives", range(1, 5))
def test_what_a_killed_daemon_made_can_be_removed(
    host: Host, network: Network, network_of: NetworkOf, monkeypatch: pytest.MonkeyPatch, lives: int
) -> None:
    """Also by one that does not complete it first, as when the network's creation was cut off."""
    with monkeypatch.context() as dying:
        dying.setattr("pyroute2.IPRoute", mortal(lives))
        dying.setattr(nft, "run", die)
        with pytest.raises(Killed):
            host.run(network.ensure)

    host.run(network_of("artest0", SUBNET).remove)

    assert "artest0" not in host.run(link_names)


def die(*_: object) -> None:
    """Stand for the daemon's death."""
    raise Killed


def test_a_flushed_firewall_is_repaired(host: Host, network: Network) -> None:
    """After ``nft flush ruleset`` the next attach brings our table back, and says so once."""
    network_repairs = host.run(network.attach, asked("a")).repairs
    good = host.run(ruleset)
    host.run(subprocess.run, ["/usr/sbin/nft", "flush", "ruleset"], check=True)
    assert not host.run(is_table)

    attachment = host.run(network.attach, asked("b"))

    assert "made bridge artest0" in network_repairs
    assert attachment.repairs == (
        "wrote nftables table ip artest0",
        "wrote nftables table bridge artest0",
    )
    host.run(network.release, "b" * 64)
    assert host.run(ruleset) == good
    assert host.run(network.attach, asked("c")).repairs == ()


@pytest.mark.parametrize("fault", ["down", "address", "mtu", "table"])
def test_ensure_repairs(host: Host, network: Network, fault: str) -> None:
    """Whatever was undone by hand is there again after ensure."""
    host.run(network.ensure)
    good = host.run(state_of, "artest0"), host.run(ruleset)
    host.run(damage, "artest0", fault)
    assert (host.run(state_of, "artest0"), host.run(ruleset)) != good

    host.run(network.ensure)

    assert (host.run(state_of, "artest0"), host.run(ruleset)) == good


def damage(name: str, fault: str) -> None:
    """Undo one thing of a bridge."""
    with IPRoute() as ipr:
        index = ipr.link_lookup(ifname=name)[0]
        if fault == "down":
            ipr.link("set", index=index, state="down")
        elif fault == "address":
            ipr.flush_addr(index=index)
            ipr.addr("add", index=index, address="10.78.0.1", prefixlen=24)
        elif fault == "mtu":
            ipr.link("set", index=index, mtu=1300)
        else:
            nft.run(nat.removal(name, ["ip", "bridge"]))


def state_of(name: str) -> tuple[Any, ...]:
    """Return what ensure promises of a bridge."""
    found = link(name)
    return found["state"], found.get_attr("IFLA_MTU"), addresses(name)


def test_threads_attach_and_release_together(
    host: Host, tmp_path: Path, network_of: NetworkOf
) -> None:
    """A hundred starts and stops from eight threads: no address twice, no lease left."""
    network = network_of("artest0", SUBNET)
    held: set[str] = set()

    def start_and_stop(number: int) -> None:
        attachment = network.attach(numbered(number))
        assert attachment.ip not in held
        held.add(attachment.ip)
        held.remove(attachment.ip)
        network.release(f"{number:064x}")

    def everything() -> None:
        # Threads made here live in the network namespace of their maker.
        with ThreadPoolExecutor(max_workers=8) as threads:
            list(threads.map(start_and_stop, range(100)))

    host.run(everything)

    assert network.holders() == []
    assert list((tmp_path / "networks/artest0/leases").iterdir()) == []


def test_two_bridges_side_by_side(host: Host, network_of: NetworkOf) -> None:
    """Removing one daemon's network leaves the other's bridge, table and traffic alone."""
    one = network_of("artest1", "10.81.0.0/24")
    two = network_of("artest2", "10.82.0.0/24")
    attachment = host.run(one.attach, asked("a"))
    container = host.container(attachment.netlink)
    alone = host.run(ruleset)
    host.run(two.attach, asked("b"))
    assert host.run(ruleset) != alone

    host.run(two.remove)

    assert host.run(ruleset) == alone
    assert talk(host, container, attachment.gateway) == attachment.ip


def test_remove_leaves_nothing(host: Host, network: Network) -> None:
    """After remove the ruleset is as before, other tables included, and the bridge is gone."""
    host.run(subprocess.run, ["/usr/sbin/nft", "add", "table", "ip", "others"], check=True)
    before = host.run(ruleset)
    host.run(network.ensure)

    host.run(network.remove)
    host.run(network.remove)

    assert host.run(ruleset) == before
    with pytest.raises(OSError):
        host.run(socket.if_nametoindex, "artest0")


def test_a_foreign_drop_policy_is_reported(host: Host, network: Network) -> None:
    """A chain of somebody else that drops what we forward is named, and left alone."""
    script = (
        "add table ip fw\n"
        "add chain ip fw FORWARD { type filter hook forward priority 0; policy drop; }\n"
    )
    host.run(subprocess.run, ["/usr/sbin/nft", "-f", "-"], input=script, text=True, check=True)

    changes = host.run(network.ensure)

    assert changes[-1].startswith("chain ip fw FORWARD drops forwarded packets")
    assert "policy drop" in host.run(ruleset)


def test_a_taken_subnet_is_refused(host: Host, network_of: NetworkOf) -> None:
    """A subnet that another link lives in is an error that names the link, and makes nothing."""
    host.run(network_of("artest1", "10.81.0.0/24").ensure)
    other = network_of("artest2", "10.81.0.0/16")

    with pytest.raises(Conflict, match=r"artest1 has 10\.81\.0\.1/24"):
        host.run(other.ensure)
    with pytest.raises(OSError):
        host.run(socket.if_nametoindex, "artest2")


def test_a_link_that_is_no_bridge_is_refused(host: Host, network_of: NetworkOf) -> None:
    """A link of the bridge's name but of another kind is left alone."""
    with pytest.raises(Conflict, match="lo exists and is no bridge"):
        host.run(network_of("lo", SUBNET).ensure)


def test_a_bridge_of_someone_else_is_used_and_kept(host: Host, network_of: NetworkOf) -> None:
    """A bridge not made here keeps its addresses and outlives remove."""
    host.run(make_plain_bridge, "br-lan")
    network = network_of("br-lan", SUBNET)

    host.run(network.ensure)
    assert sorted(host.run(addresses, "br-lan")) == ["10.77.0.1/24", "10.90.0.1/24"]
    host.run(network.remove)

    assert host.run(link, "br-lan")["state"] == "up"


def make_plain_bridge(name: str) -> None:
    """Make a bridge the way an administrator would."""
    with IPRoute() as ipr:
        ipr.link("add", ifname=name, kind="bridge")
    bring_up(name, "10.90.0.1")


def test_a_restarted_container_gets_a_link_of_its_own(host: Host, network: Network) -> None:
    """A second start while the first namespace still lives does not clash with its link."""
    first = host.run(network.attach, asked("a"))
    host.container(first.netlink)
    second = host.run(network.attach, asked("a"))

    host.container(second.netlink)

    assert second.ip == first.ip
    assert sorted(host.run(bridges.ports, "artest0")) == sorted(
        [first.host_ifname, second.host_ifname]
    )


def test_an_exhausted_pool_is_an_error(host: Host, network_of: NetworkOf) -> None:
    """A /30 holds one container; the second is told what to do, a release makes room."""
    network = network_of("artest0", "10.77.0.0/30")
    host.run(network.attach, asked("a"))

    with pytest.raises(AddressPoolExhausted, match=r"10\.77\.0\.0/30"):
        host.run(network.attach, asked("b"))
    network.release("a" * 64)

    assert host.run(network.attach, asked("b")).ip == "10.77.0.2"


def test_a_full_bridge_is_an_error(host: Host, network_of: NetworkOf) -> None:
    """One more container than the kernel lets a bridge carry is refused before it is started."""
    network = network_of("artest0", "10.77.0.0/16")
    for number in range(attach.MAX_PORTS):
        host.run(network.attach, numbered(number))

    with pytest.raises(Unavailable, match="bridge artest0 is full"):
        host.run(network.attach, asked("f"))
    assert host.run(network.attach, numbered(0)).ip == "10.77.0.2"  # a restart is none more


def test_a_crowd_gets_room_for_neighbours(
    host: Host, network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, with the container that makes it one; by the next daemon again at its start."""
    asked_for: list[list[int]] = []

    def ensure_neighbours(versions: list[int]) -> list[str]:
        asked_for.append(versions)
        return ["made room"]

    monkeypatch.setattr(bridges, "ensure_neighbours", ensure_neighbours)

    made = [host.run(network.attach, numbered(number)) for number in range(attach.CROWD + 1)]

    assert [number for number, one in enumerate(made, 1) if "made room" in one.repairs] == [
        attach.CROWD
    ]
    with closing(bridge_network("artest0", SUBNET, tmp_path)) as later:
        assert "made room" in host.run(later.ensure)
    assert asked_for == [[4], [4]]


def test_no_network_has_loopback_only(host: Host) -> None:
    """With --network none the container has a working loopback and no other link."""
    container = host.container(without_network())

    assert talk(container, container, "127.0.0.1") == "127.0.0.1"
    assert container.run(socket.if_nameindex) == [(1, "lo")]


def test_the_real_host_is_untouched(host: Host, network: Network) -> None:
    """What these tests make is visible in the private namespace only."""
    host.run(network.ensure)

    assert "artest0" in host.run(link_names)
    assert "artest0" not in link_names()


def link_names() -> list[str]:
    """Return the names of the links of this namespace."""
    return [name for _, name in socket.if_nameindex()]
