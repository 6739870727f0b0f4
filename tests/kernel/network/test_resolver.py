"""The resolver of users' networks, asked by dig and by hostile sockets inside of containers."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import dns.message
import pytest
import trio

from aruntime.daemon import resolver, upstream
from aruntime.daemon.resolver import Resolver
from aruntime.network import Networks, Request, Wanted, default_definition, live, redirect
from aruntime.network import dns as messages
from aruntime.network.nfnetlink import NfTables
from tests.conftest import require_program
from tests.kernel.network.dns_server import DnsServer, told

if TYPE_CHECKING:
    from tests.kernel.network.conftest import Host, Netns

pytestmark = pytest.mark.kernel

GATEWAY = "10.78.0.1"
OTHER_GATEWAY = "10.79.0.1"
SERVER = "127.0.0.1"


class World:
    """A host with two users' networks and the resolver, in namespaces of their own."""

    def __init__(self, host: Host, root: Path) -> None:
        self.host = host
        self.servers: Sequence[str] = [SERVER]
        self.networks = Networks(default_definition("dflt0", "10.77.0.0/24"), root)
        for name, subnet in (("shop", "10.78.0.0/24"), ("attic", "10.79.0.0/24")):
            wanted = Wanted(name=name, subnet=subnet, bridge=f"br-{name}", ipv6=name == "shop")
            host.run(self.networks.create, wanted)
        self.resolver = Resolver(self.networks, lambda _: self.servers)
        self.networks.endpoints.listen(self.resolver.changed)
        self._started = threading.Event()
        self._executor = host.run(_executor)
        self._run = self._executor.submit(trio.run, self._serve)
        assert self._started.wait(10)

    async def _serve(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._scope = trio.CancelScope()
        with self._scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.resolver.run)
                self._started.set()

    def container(
        self, digit: str, *networks: str, name: str = "", aliases: Sequence[str] = ()
    ) -> Netns:
        """Return a new container in these networks; its program could run now."""
        requests = {
            network: Request(
                container_id=digit * 64, interface=number, name=name, aliases=tuple(aliases)
            )
            for number, network in enumerate(networks)
        }
        first, *more = self.host.run(self.networks.attach, requests)
        made = self.host.container(first.netlink)
        for attachment in more:
            with open(f"/proc/self/task/{made.run(threading.get_native_id)}/ns/net") as netns:
                payload = self.host.run(
                    self.networks.get(attachment.network).attach,
                    Request(
                        container_id=digit * 64, interface=len(more), netns_fd=netns.fileno(),
                        default_route=False,
                    ),
                ).netlink  # fmt: skip
                self.host.run(live.connect, netns.fileno(), payload)
        return made

    def leave(self, digit: str) -> None:
        """Take a container out of all networks."""
        self.host.run(self.networks.release, digit * 64)

    def address(self, digit: str, network: str = "shop") -> str:
        """Return where a container stands."""
        return next(
            one.ip for one in self.networks.endpoints.of(digit * 64) if one.network == network
        )

    def close(self) -> None:
        """Stop the resolver; bridges go with the namespace."""
        self._token.run_sync_soon(self._scope.cancel)
        self._run.result(10)
        self._executor.shutdown()
        self.networks.close()


def _executor() -> ThreadPoolExecutor:
    """Return an executor whose only thread lives in the namespace of this one."""
    made = ThreadPoolExecutor(max_workers=1)
    made.submit(int).result()
    return made


@pytest.fixture
def world(host: Host, tmp_path: Path) -> Iterator[World]:
    """Yield a host with networks and resolver."""
    made = World(host, tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def server(world: World) -> Iterator[DnsServer]:
    """Yield the host's own DNS server, which finds 192.0.2.7 everywhere."""
    made = world.host.run(DnsServer, SERVER, told("192.0.2.7"))
    try:
        yield made
    finally:
        world.host.run(made.close)


def dig(container: Netns, *words: str, gateway: str = GATEWAY) -> subprocess.CompletedProcess[str]:
    """Ask from inside a container."""
    command = [require_program("dig"), f"@{gateway}", "+tries=1", "+time=5", *words]
    return container.run(subprocess.run, command, capture_output=True, text=True, check=False)


def found(container: Netns, *words: str, gateway: str = GATEWAY) -> list[str]:
    """Return the data of the answers, sorted."""
    done = dig(container, "+short", *words, gateway=gateway)
    assert done.returncode == 0, done.stdout + done.stderr
    return sorted(done.stdout.split())


def status(container: Netns, *words: str, gateway: str = GATEWAY) -> str:
    """Return the code of an answer by its name."""
    shown = dig(container, *words, gateway=gateway).stdout
    return shown.partition("status: ")[2].partition(",")[0]


def raw(container: Netns, packet: bytes, *, gateway: str = GATEWAY, seconds: float = 5) -> bytes:
    """Send a packet from inside a container; return the answer, nothing if there is none."""

    def exchange() -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(seconds)
            sock.connect((gateway, 53))
            sock.send(packet)
            try:
                return sock.recv(65535)
            except TimeoutError:
                return b""

    return container.run(exchange)


def test_containers_find_each_other(world: World) -> None:
    """By name, alias, short id and full name, over UDP and TCP, both kinds of addresses, back."""
    web = world.container("a", "shop", name="web")
    world.container("b", "shop", name="db", aliases=["store"])
    address = world.address("b")

    for name in ("db", "DB", "store", "b" * 12, "db.shop"):
        assert found(web, name) == [address]
        assert found(web, "+tcp", name) == [address]
    assert len(found(web, "db", "AAAA")) == 1
    assert found(web, "-x", address) == ["db.shop."]
    assert found(web, "-x", found(web, "db", "AAAA")[0]) == ["db.shop."]
    assert status(web, "db", "MX") == "NOERROR"
    assert status(web, "-x", "10.78.0.200") == "NXDOMAIN"
    assert "EDNS: version: 0" in dig(web, "db").stdout


def test_names_come_and_go_with_containers(world: World) -> None:
    """A name is there before its container's program runs, and not once it has gone."""
    web = world.container("a", "shop", name="web")
    world.servers = []
    assert status(web, "late") == "NXDOMAIN"
    world.container("b", "shop", name="late", aliases=["both"])
    world.container("c", "shop", name="later", aliases=["both"])
    assert len(found(web, "both")) == 2
    world.leave("b")

    assert status(web, "late") == "NXDOMAIN"
    assert found(web, "both") == [world.address("c")]


def test_networks_do_not_hear_each_other(world: World, server: DnsServer) -> None:
    """Names end at the network; its resolver answers nobody else, not even the host."""
    web = world.container("a", "shop", name="web")
    attic = world.container("b", "attic", name="hidden")
    server.behaviour = lambda query: [messages.refusal(query, messages.NXDOMAIN)]

    assert status(web, "hidden") == "NXDOMAIN"
    assert found(attic, "hidden", gateway=OTHER_GATEWAY) == [world.address("b", "attic")]
    query = dns.message.make_query("hidden.", "A").to_wire()
    assert raw(web, query)
    for stranger in (web, world.host):
        try:
            assert raw(stranger, query, gateway=OTHER_GATEWAY, seconds=0.5) == b""
        except ConnectionRefusedError:
            pass  # nobody listens there for it


def test_a_container_in_two_networks_knows_both(world: World) -> None:
    """It may ask at either gateway."""
    both = world.container("a", "shop", "attic", name="web")
    world.container("b", "attic", name="hidden")

    for gateway in (GATEWAY, OTHER_GATEWAY):
        assert found(both, "hidden", gateway=gateway) == [world.address("b", "attic")]
        assert found(both, "web.shop", gateway=gateway) == [world.address("a")]


def test_other_names_are_asked_of_the_hosts_server(world: World, server: DnsServer) -> None:
    """Over UDP and TCP, with the options and in the case of letters that the client chose."""
    web = world.container("a", "shop", name="web")

    assert found(web, "eXample.org") == ["192.0.2.7"]
    assert found(web, "+tcp", "example.org") == ["192.0.2.7"]
    assert found(web, "+nsid", "example.org") == ["192.0.2.7"]
    asked = [dns.message.from_wire(query) for query in server.asked]
    assert asked[0].question[0].name.to_text() == "eXample.org."
    assert any(option.otype == 3 for option in asked[2].options)


def test_a_forged_answer_is_not_believed(world: World, server: DnsServer) -> None:
    """Wrong number, wrong question, a query: the right one is waited for."""
    web = world.container("a", "shop", name="web")

    def forged(query: bytes) -> list[bytes]:
        right = told("192.0.2.7")(query)[0]
        wrong = told("203.0.113.1")
        other = dns.message.make_query("other.org.", "A", id=messages.number_of(query)).to_wire()
        number = messages.number_of(query) ^ 1
        renumbered = messages.renumbered(wrong(query)[0], number)
        return [renumbered, wrong(other)[0], query, b"", b"\0" * 5, right]

    server.behaviour = forged
    assert found(web, "example.org") == ["192.0.2.7"]


def test_a_cut_answer_is_passed_on(world: World, server: DnsServer) -> None:
    """The client asks again by TCP, and so do we."""
    web = world.container("a", "shop", name="web")
    cut: list[bytes] = []

    def truncating(query: bytes) -> list[bytes]:
        whole = told("192.0.2.7")(query)[0]
        if cut:
            return [whole]
        cut.append(query)
        return [whole[:2] + bytes([whole[2] | 0x02]) + whole[3:]]

    server.behaviour = truncating
    assert found(web, "example.org") == ["192.0.2.7"]
    assert len(server.asked) == 2


def test_the_next_server_is_asked(world: World, server: DnsServer) -> None:
    """When one is not there, or answers that it failed; its answer stands if no other does."""
    web = world.container("a", "shop", name="web")
    world.servers = ["127.0.0.9", SERVER]
    assert found(web, "example.org") == ["192.0.2.7"]
    server.behaviour = lambda query: [messages.refusal(query, messages.SERVFAIL)]
    assert status(web, "example.org") == "SERVFAIL"


def test_a_server_is_asked_by_ipv6(world: World) -> None:
    """Whatever the network of the container has."""
    server = world.host.run(DnsServer, "::1", told("192.0.2.8"))
    try:
        world.servers = ["::1"]
        attic = world.container("a", "attic", name="web")
        assert found(attic, "example.org", gateway=OTHER_GATEWAY) == ["192.0.2.8"]
        assert found(attic, "+tcp", "example.org", gateway=OTHER_GATEWAY) == ["192.0.2.8"]
    finally:
        world.host.run(server.close)


def test_without_any_server(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Down: SERVFAIL in time; none at all: a single word is nobody's, the rest is refused."""
    monkeypatch.setattr(upstream, "TRY_SECONDS", 0.2)
    web = world.container("a", "shop", name="web")
    world.servers = ["127.0.0.9", "not an address"]
    assert status(web, "example.org") == "SERVFAIL"
    with world.host.run(_silent) as silence:
        world.servers = [silence.getsockname()[0]]
        assert status(web, "example.org") == "SERVFAIL"
        assert status(web, "+tcp", "example.org") == "SERVFAIL"
        assert found(web, "web") == [world.address("a")]
    world.servers = []
    assert status(web, "nobody") == "NXDOMAIN"
    assert status(web, "example.org") == "REFUSED"


def _silent() -> socket.socket:
    """Return a socket that never answers."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.8", 53))
    return sock


def test_many_addresses_by_udp_and_tcp(world: World) -> None:
    """An answer too long for a datagram is cut, and dig gets it by TCP; plain ones end at 512."""
    web = world.container("a", "shop", name="web")
    for number in range(100):
        world.host.run(
            world.networks.attach,
            {"shop": Request(container_id=f"{number:064x}", aliases=("many",))},
        )

    assert len(found(web, "many")) == 100
    cut = dig(web, "+ignore", "+noedns", "many").stdout
    assert "tc" in cut.partition("flags: ")[2].partition(";")[0].split()
    assert int(cut.partition("MSG SIZE  rcvd: ")[2].split()[0]) <= 512


def test_garbage_gets_an_error_or_nothing(world: World) -> None:
    """And the resolver goes on."""
    web = world.container("a", "shop", name="web")
    answer = dns.message.make_response(dns.message.make_query("web.", "A")).to_wire()

    assert raw(web, answer, seconds=0.3) == b""
    assert raw(web, b"", seconds=0.1) == raw(web, b"x" * 11, seconds=0.1) == b""
    bad = struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0) + b"\xc0\x0c\0\1\0\1"  # points at itself
    assert raw(web, bad)[:4] == struct.pack("!HH", 7, 0x8180 | messages.FORMERR)
    assert found(web, "web") == [world.address("a")]

    def bad_stream(packet: bytes) -> bytes:
        with socket.create_connection((GATEWAY, 53), 5) as sock:
            sock.sendall(packet)
            sock.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: sock.recv(4096), b""))

    for packet in (b"", b"\0", b"\0\0", b"\0\x05short", b"\xff\xff" + b"x" * 100):
        assert web.run(bad_stream, packet) == b""
    two = dns.message.make_query("web.", "A").to_wire()
    both = web.run(bad_stream, (len(two).to_bytes(2, "big") + two) * 2)
    assert both.count(socket.inet_aton(world.address("a"))) == 2
    assert found(web, "+tcp", "web") == [world.address("a")]


def test_a_flood_costs_the_flooder_only_its_own_names(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks too much is not heard for a while; others go on."""
    monkeypatch.setattr(resolver, "QUERIES_PER_SECOND", 5)
    monkeypatch.setattr(resolver, "BURST_QUERIES", 20)
    web = world.container("a", "shop", name="web")
    other = world.container("b", "shop", name="db")
    query = dns.message.make_query("db.", "A").to_wire()

    def flood() -> int:
        answered = 0
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(30)
            sock.connect((GATEWAY, 53))
            for _ in range(200):
                sock.send(query)
            sock.settimeout(1)
            with contextlib.suppress(TimeoutError):
                while sock.recv(512):
                    answered += 1
        return answered

    began = time.monotonic()
    answered = web.run(flood)
    assert 20 <= answered <= 20 + 5 * (time.monotonic() - began) + 1
    assert found(other, "db") == [world.address("b")]


def test_what_waits_for_other_servers_is_bounded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than so many questions of a container fail at once instead of piling up."""
    monkeypatch.setattr(upstream, "TRY_SECONDS", 0.5)
    monkeypatch.setattr(resolver, "MOST_FORWARDED", 4)
    web = world.container("a", "shop", name="web")
    queries = [dns.message.make_query("example.org.", "A", id=number) for number in range(10)]

    def ask() -> list[int]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(10)
            sock.connect((GATEWAY, 53))
            for query in queries:
                sock.send(query.to_wire())
            replies = [sock.recv(512) for _ in queries]
        assert {messages.code_of(reply) for reply in replies} == {messages.SERVFAIL}
        return [messages.number_of(reply) for reply in replies]

    with world.host.run(_silent) as silence:
        world.servers = [silence.getsockname()[0]]
        order = web.run(ask)
    assert sorted(order[:6]) == list(range(4, 10))


def test_sockets_are_there_as_long_as_containers(world: World) -> None:
    """The last one's going closes them, the next one's coming opens them; so does a new bridge."""
    for _ in range(3):
        web = world.container("a", "shop", name="web")
        assert found(web, "web") == [world.address("a")]
        world.leave("a")
    world.container("a", "shop", name="web")
    world.host.run(subprocess.run, ["ip", "link", "del", "br-shop"], check=True)

    db = world.container("b", "shop", name="db")  # repairs the bridge
    assert found(db, "web") == [world.address("a")]


def test_a_port_that_is_taken(world: World) -> None:
    """Another server has the port: questions are led past it, for as long as it is so."""
    holder = world.host.run(DnsServer, GATEWAY, told("192.0.2.9"))
    try:
        web = world.container("a", "shop", name="web")
        for _ in range(2):
            assert found(web, "web") == found(web, "+tcp", "web") == [world.address("a")]
            assert world.host.run(led)
            world.host.run(subprocess.run, ["/usr/sbin/nft", "flush", "ruleset"], check=True)
            world.container("b", "shop", name="db")
        world.host.run(world.networks.get("attic").ensure)
        attic = world.container("c", "attic", name="other")
        assert found(attic, "other", gateway=OTHER_GATEWAY) == [world.address("c", "attic")]
        for digit in "abc":
            world.leave(digit)
    finally:
        world.host.run(holder.close)
    web = world.container("a", "shop", name="web")
    assert found(web, "web") == found(web, "+tcp", "web") == [world.address("a")]
    assert not world.host.run(led)


def led() -> bool:
    """Whether questions are led to another port."""
    with contextlib.closing(NfTables()) as tables:
        return tables.is_table(redirect.table_of("br-shop"))


def test_the_world_closes_everything(host: Host, tmp_path: Path) -> None:
    """No socket outlives the resolver (the leak check compares descriptors)."""
    with ExitStack() as undo:
        world = World(host, tmp_path)
        undo.callback(world.close)
        world.container("a", "shop", name="web")
