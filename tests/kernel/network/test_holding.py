"""Ports held for containers, in a private network namespace with real sockets."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from aruntime.errors import Conflict, InvalidParameter
from aruntime.network import holding
from aruntime.network.nfnetlink import NfTables
from aruntime.network.port_table import PortTable, entry
from aruntime.network.ports import PortRequest, PublishedPort
from tests.kernel.network.conftest import Host
from tests.networks import asked, bridge_network

pytestmark = pytest.mark.kernel


def request(port: int, last: int = 0, *, protocol: str = "tcp", ip: str = "") -> PortRequest:
    """Return what is asked of the host for port 80 of a container."""
    return PortRequest(
        container_port=80, protocol=protocol, host_ip=ip, host_port=port, host_port_end=last
    )


def can_bind(port: int, ip: str = "", kind: socket.SocketKind = socket.SOCK_STREAM) -> bool:
    """Whether somebody else could take a port."""
    with socket.socket(socket.AF_INET, kind) as probe:
        try:
            probe.bind((ip, port))
        except OSError:
            return False
        return True


def holding_of(*requests: PortRequest) -> Callable[[], tuple[list[PublishedPort], int]]:
    """Return what holds ports for these requests."""
    return lambda: holding.hold(list(requests))


def test_a_descriptor_holds_the_ports(host: Host) -> None:
    """As long as it is open nobody else binds them; connections are refused, not left waiting."""
    ports, fd = host.run(holding_of(request(8080), request(8080, protocol="udp"), request(0)))
    try:
        assert [(one.protocol, one.host_ip, one.host_port) for one in ports[:2]] == [
            ("tcp", "0.0.0.0", 8080),
            ("udp", "0.0.0.0", 8080),
        ]
        assert ports[2].host_port > 1023
        assert not host.run(can_bind, 8080)
        assert not host.run(can_bind, 8080, "127.0.0.1", socket.SOCK_DGRAM)
        assert not host.run(can_bind, ports[2].host_port)
        with pytest.raises(ConnectionRefusedError):
            host.run(socket.create_connection, ("127.0.0.1", 8080), 1)
        again = [holding.request_for(one) for one in ports]
        assert [one.host_port for one in again] == [one.host_port for one in ports]
    finally:
        os.close(fd)
    assert host.run(can_bind, 8080)
    assert host.run(can_bind, ports[2].host_port)


def test_one_address_leaves_the_others(host: Host) -> None:
    """A port at 127.0.0.1 is free at another address of the loopback."""
    _, fd = host.run(holding_of(request(8080, ip="127.0.0.1")))
    try:
        assert host.run(can_bind, 8080, "127.0.0.2")
        assert not host.run(can_bind, 8080, "127.0.0.1")
    finally:
        os.close(fd)
    with pytest.raises(InvalidParameter, match=r"10\.9\.9\.9: it is no address of this host"):
        host.run(holding_of(request(80, ip="10.9.9.9")))


def test_ranges_take_the_first_free_port(host: Host) -> None:
    """Ports that others have are skipped; a range that is used up is an error."""
    fds = []
    try:
        for expected in (9000, 9001):
            ports, fd = host.run(holding_of(request(9000, 9001)))
            fds.append(fd)
            assert ports[0].host_port == expected
        with pytest.raises(Conflict, match=r"all ports of 0\.0\.0\.0:9000-9001/tcp are in use"):
            host.run(holding_of(request(9000, 9001)))
    finally:
        for fd in fds:
            os.close(fd)


def test_many_ports_are_one_descriptor(host: Host) -> None:
    """More than one message's worth of sockets (SCM_MAX_FD)."""
    before = len(os.listdir("/proc/self/fd"))
    ports, fd = host.run(holding_of(*(request(port) for port in range(20000, 20600))))
    try:
        assert len(ports) == 600
        assert len(os.listdir("/proc/self/fd")) == before + 1
        assert not host.run(can_bind, 20000)
        assert not host.run(can_bind, 20599)
    finally:
        os.close(fd)
    assert host.run(can_bind, 20599)


def test_who_has_a_port_is_named(host: Host) -> None:
    """A listener, an IPv6 one too, and a UDP socket, by process; nothing is held after it."""
    comm = Path("/proc/self/comm").read_text().strip()

    def listener(family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
        made = socket.socket(family, kind)
        made.bind(("", 8443))
        if kind is socket.SOCK_STREAM:
            made.listen()
        return made

    for family, kind, protocol in (
        (socket.AF_INET, socket.SOCK_STREAM, "tcp"),
        (socket.AF_INET6, socket.SOCK_STREAM, "tcp"),
        (socket.AF_INET, socket.SOCK_DGRAM, "udp"),
    ):
        with closing(host.run(listener, family, kind)):
            wanted = rf"port 0\.0\.0\.0:8443/{protocol} is in use by {comm} \(pid {os.getpid()}\)"
            with pytest.raises(Conflict, match=wanted):
                host.run(holding_of(request(8442), request(8443, protocol=protocol)))
        assert host.run(can_bind, 8442)


def test_a_port_of_ended_connections_is_free(host: Host) -> None:
    """What a server of the host left in TIME_WAIT does not keep a port from being published."""

    def leave_time_wait() -> None:
        with socket.create_server(("127.0.0.1", 8088)) as server:
            client = socket.create_connection(("127.0.0.1", 8088))
            accepted, _ = server.accept()
            accepted.close()  # the server's side ends it and waits
            client.recv(1)
            client.close()

    host.run(leave_time_wait)
    assert not host.run(can_bind, 8088)
    _, fd = host.run(holding_of(request(8088)))
    try:
        # With SO_REUSEADDR too: it is not only that somebody waits.
        def reuse() -> bool:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("", 8088))
                except OSError:
                    return False
                return True

        assert not host.run(reuse)
    finally:
        os.close(fd)


def resolver(address: str) -> tuple[socket.socket, socket.socket]:
    """Open the sockets of a resolver of ours at an address."""
    made = []
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        one = socket.socket(socket.AF_INET, kind)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        one.bind((address, 53))
        one.settimeout(5)
        made.append(one)
    made[1].listen()
    return made[0], made[1]


@pytest.mark.parametrize("resolver_first", [True, False])
def test_port_53_is_shared_with_our_resolvers(
    host: Host, monkeypatch: pytest.MonkeyPatch, *, resolver_first: bool
) -> None:
    """Whoever comes first; but not with others, who are named."""
    wanted = holding_of(request(53), request(53, protocol="udp"))
    if resolver_first:
        udp, tcp = host.run(resolver, "127.0.0.1")
        fd = host.run(wanted)[1]
    else:
        fd = host.run(wanted)[1]
        udp, tcp = host.run(resolver, "127.0.0.1")
    with closing(udp), closing(tcp):
        assert not host.run(can_bind, 53)
        assert not host.run(can_bind, 53, "", socket.SOCK_DGRAM)
        os.close(fd)
        monkeypatch.setattr(holding, "_own_inodes", set)
        with pytest.raises(Conflict, match=r"port 0\.0\.0\.0:53/tcp is in use by"):
            host.run(wanted)


def test_questions_for_names_stay_ours(host: Host, tmp_path: Path) -> None:
    """A container that publishes port 53 is reached, but not by those who ask the resolver."""
    with (
        closing(bridge_network("artest0", "10.77.0.0/24", tmp_path)) as network,
        closing(NfTables()) as tables,
    ):
        places = [host.run(network.attach, asked(digit)) for digit in "ab"]
        server, client = (host.container(one.netlink) for one in places)
        table = PortTable("artest0", tables)
        port = PublishedPort(protocol="udp", host_ip="0.0.0.0", host_port=53, container_port=53)
        host.run(table.keep_resolver, "10.77.0.1")
        host.run(table.put, "a" * 64, [entry(port, places[0].ip)])
        own, stream = host.run(resolver, "10.77.0.1")
        inside, other = server.run(resolver, "")
        with closing(own), closing(stream), closing(inside), closing(other):
            client.run(ask, "10.77.0.1", b"resolver")
            assert own.recv(99) == b"resolver"
            host.run(table.keep_resolver, "10.77.0.1", wanted=False)
            client.run(ask, "10.77.0.1", b"container")
            assert inside.recv(99) == b"container"
        host.run(table.drop, "a" * 64)


def ask(address: str, said: bytes) -> None:
    """Send a datagram to port 53."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(said, (address, 53))
