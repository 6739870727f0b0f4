"""Published ports, reached by real clients: from the host, from containers, from elsewhere."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import RunningDaemon, wait_until
from tests.networks import elsewhere
from tests.traces import assert_no_more_than, traces

pytestmark = pytest.mark.e2e

ANSWER = "while :; do echo {} | nc -l -p {}; done"
GREET = ("sh", "-c", ANSWER.format("hello", 80))

UDP_ECHO = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", 7))
while True:
    said, who = s.recvfrom(99)
    s.sendto(said.upper(), who)
"""


def ask(address: str, port: int, seconds: float = 5) -> str:
    """Connect by TCP and return what the other side says until it hangs up."""
    with socket.create_connection((address, port), timeout=seconds) as connection:
        connection.shutdown(socket.SHUT_WR)
        return connection.makefile().read().strip()


def answers(address: str, port: int) -> str:
    """Ask until there is an answer: the program inside may not listen yet."""
    found = ""

    def once() -> bool:
        nonlocal found
        with contextlib.suppress(OSError):
            found = ask(address, port)
        return bool(found)

    wait_until(once, what=f"an answer of {address}:{port}")
    return found


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """Return a port that nobody has at the moment."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def published(daemon: RunningDaemon, name: str, port: str = "80") -> int:
    """Return the host's port that leads to a container's port."""
    return int(daemon.out("port", name, port).splitlines()[0].rpartition(":")[2])


def gateway(daemon: RunningDaemon) -> str:
    """Return the default bridge's own address, which containers can reach."""
    return daemon.subnet.replace(".0/24", ".1")


def elements(daemon: RunningDaemon) -> str:
    """Return the daemon's table of published ports."""
    listed = subprocess.run(
        ["/usr/sbin/nft", "list", "table", "ip", f"{daemon.bridge}-ports"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return listed.stdout


def settings(daemon: RunningDaemon, name: str) -> Any:
    """Return what inspect shows."""
    return json.loads(daemon.out("inspect", name))[0]


def greeted(*command: str, env: dict[str, str] | None = None) -> None:
    """Have a program ask until it is greeted: between two answers nobody listens for a moment."""

    def is_greeted() -> bool:
        done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
        return done.stdout == "hello\n"

    wait_until(is_greeted, what=f"a greeting for {command}")


def test_reached_from_everywhere(shared_daemon: RunningDaemon) -> None:
    """By any address of the host: from it, by localhost, from outside, from containers, itself."""
    daemon = shared_daemon
    port = free_port()
    daemon.run("network", "create", "front")
    daemon.run("run", "-d", "--name", "web", "--network", "front", "-p", f"{port}:80",
               "busybox", *GREET)  # fmt: skip
    assert daemon.out("port", "web") == f"80/tcp -> 0.0.0.0:{port}"
    assert daemon.out("ps", "--format", "{{.Ports}}") == f"0.0.0.0:{port}->80/tcp"
    about = settings(daemon, "web")
    place = [{"HostIp": "0.0.0.0", "HostPort": str(port)}]
    assert about["NetworkSettings"]["Ports"] == {"80/tcp": place}
    assert about["HostConfig"]["PortBindings"]["80/tcp"][0]["HostPort"] == str(port)

    assert answers("127.0.0.1", port) == "hello"
    assert answers(gateway(daemon), port) == "hello"
    ask_it = ("nc", "-w", "5", gateway(daemon), str(port))
    for asks in (
        ("run", "--rm", "busybox", *ask_it),
        ("run", "--rm", "--network", "front", "busybox", *ask_it),
        ("exec", "web", *ask_it),
    ):
        greeted(daemon.client, *asks, env=os.environ | daemon.env)
    with elsewhere() as (name, host):
        greeted("ip", "netns", "exec", name, "busybox", "nc", "-w", "5", host, str(port))
    daemon.run("stop", "-t", "0", "web")
    with pytest.raises(ConnectionRefusedError):
        ask("127.0.0.1", port)
    assert daemon.out("port", "web") == ""
    assert "{ tcp . " not in elements(daemon)
    daemon.run("start", "web")
    assert answers("127.0.0.1", port) == "hello"
    daemon.run("rm", "-f", "web")
    daemon.run("network", "rm", "front")


def test_ranges_exposed_ports_and_addresses(shared_daemon: RunningDaemon) -> None:
    """-P, --expose, ranges, one address only, UDP."""
    daemon = shared_daemon
    serve = f"{ANSWER.format('one', 81)} & {ANSWER.format('two', 82)}"
    daemon.run("run", "-d", "--name", "many", "-P", "--expose", "81-82", "--expose", "90/udp",
               "busybox", "sh", "-c", serve)  # fmt: skip
    assert answers("127.0.0.1", published(daemon, "many", "81")) == "one"
    assert answers("127.0.0.1", published(daemon, "many", "82/tcp")) == "two"
    assert published(daemon, "many", "90/udp")
    missing = daemon.run("port", "many", "83", code=1)
    assert missing.stderr == "aruntime: no public port '83/tcp' published for many\n"
    daemon.run("rm", "-f", "many")

    port = free_port(socket.SOCK_DGRAM)
    daemon.run("run", "-d", "--name", "echo", "-p", f"127.0.0.1:{port}:7/udp", "busybox",
               "sleep", "999")  # fmt: skip
    assert daemon.out("ps", "--format", "{{.Ports}}") == f"127.0.0.1:{port}->7/udp"
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
        echoing(daemon, "echo"),
    ):
        client.settimeout(0.3)
        client.connect(("127.0.0.1", port))
        wait_until(lambda: echoed(client, b"ping"), what="an echo")
        # Who goes on sending reaches the next container that has the port, too.
        daemon.run("rm", "-f", "echo")
        assert not echoed(client, b"anybody?")
        daemon.run("run", "-d", "--name", "filler", "busybox", "sleep", "999")
        daemon.run("run", "-d", "--name", "next", "-p", f"{port}:7/udp", "busybox", "sleep", "999")
        with echoing(daemon, "next"):
            wait_until(lambda: echoed(client, b"again"), what="an echo of the next one")
    daemon.run("rm", "-f", "filler", "next")


def echoed(client: socket.socket, said: bytes) -> bool:
    """Send and return whether it came back in capitals."""
    with contextlib.suppress(OSError):
        client.send(said)
        return client.recv(99) == said.upper()
    return False


@contextlib.contextmanager
def echoing(daemon: RunningDaemon, name: str) -> Iterator[None]:
    """Have a UDP server in a container's network while the block runs."""
    inside = f"--net={settings(daemon, name)['NetworkSettings']['SandboxKey']}"
    server = subprocess.Popen(["nsenter", inside, sys.executable, "-c", UDP_ECHO])
    try:
        yield
    finally:
        server.kill()
        server.wait()


@contextlib.contextmanager
def taken_port() -> Iterator[int]:
    """Yield a port of the host on which this process listens."""
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        yield taken.getsockname()[1]


def test_a_port_in_use_names_its_holder(shared_daemon: RunningDaemon) -> None:
    """A process of the host, a container of ours; nothing is left of the container's start."""
    daemon = shared_daemon
    with taken_port() as port:
        failed = daemon.run("run", "--rm", "-p", f"{port}:80", "busybox", "true", code=125)
    assert f"port 0.0.0.0:{port}/tcp is in use by pytest (pid {os.getpid()})" in re.sub(
        r"in use by \S+ \(pid", "in use by pytest (pid", failed.stderr
    )
    daemon.run("run", "-d", "--name", "first", "-p", f"{port}:80", "busybox", "sleep", "999")
    second = daemon.run("run", "--rm", "-p", f"127.0.0.1:{port}:80", "busybox", "true", code=125)
    assert f"port 127.0.0.1:{port}/tcp is published by container first" in second.stderr
    again = daemon.run("run", "--rm", "-p", f"{port}-{port}:81-81", "busybox", "true", code=125)
    assert "published by container first" in again.stderr
    # Nobody else can take it either.
    with socket.socket() as late, pytest.raises(OSError, match="in use"):
        late.bind(("", port))
    address = daemon.run("run", "--rm", "-p", "203.0.113.77:80:80", "busybox", "true", code=125)
    assert "cannot publish at 203.0.113.77: it is no address of this host" in address.stderr
    daemon.run("network", "create", "--internal", "inner")
    inner = daemon.run("run", "--rm", "--network", "inner", "-p", "80", "busybox", "true", code=125)
    assert "an internal network has no way in" in inner.stderr
    daemon.run("network", "rm", "inner")
    assert elements(daemon).count("{ tcp . ") == 1
    daemon.run("rm", "-f", "first")


def test_a_start_that_fails_once_init_is_forked(shared_daemon: RunningDaemon) -> None:
    """Init waits for its payload, which does not come: nothing stays, and it can start again."""
    daemon = shared_daemon
    with taken_port() as port:
        daemon.run("create", "--name", "late", "-p", f"{port}:80", "busybox", *GREET)
        before = traces(daemon)
        for _ in range(10):
            failed = daemon.run("start", "late", code=None)
            assert failed.returncode == 1
            assert f"port 0.0.0.0:{port}/tcp is in use" in failed.stderr
        assert_no_more_than(before, daemon)
    assert daemon.out("inspect", "-f", "{{.State.Status}} {{.State.Pid}}", "late") == "created 0"
    daemon.run("start", "late")
    assert answers("127.0.0.1", port) == "hello"
    daemon.run("rm", "-f", "late")


def test_ports_survive_the_daemon(daemon: RunningDaemon) -> None:
    """Killed, a daemon's ports lead on; the next one holds them, and a flush of all is repaired."""
    daemon.run("run", "-d", "--name", "web", "-P", "--expose", "80", "busybox", *GREET)
    port = published(daemon, "web")
    assert answers("127.0.0.1", port) == "hello"
    daemon.kill()
    assert answers("127.0.0.1", port) == "hello"
    for table in (f"{daemon.bridge}-ports", daemon.bridge):
        subprocess.run(["/usr/sbin/nft", "delete", "table", "ip", table], check=True)
    daemon.start()
    assert published(daemon, "web") == port
    assert answers("127.0.0.1", port) == "hello"
    with socket.socket() as late, pytest.raises(OSError, match="in use"):
        late.bind(("", port))

    daemon.kill()
    subprocess.run(["/usr/sbin/nft", "add", "element", "ip", f"{daemon.bridge}-ports", "published",
                    "{ tcp . 9 : 203.0.113.9 . 9 }"], check=True)  # fmt: skip
    daemon.start()
    assert "203.0.113.9" not in elements(daemon)
    daemon.run("rm", "-f", "web")
    assert "{ tcp . " not in elements(daemon)


SEND_TO_LOOPBACK = """
import socket, struct, sys
mac, source, port = sys.argv[1:]
datagram = struct.pack("!HHHH", 4000, int(port), 12, 0) + b"knock"[:4]
head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(datagram), 0, 0, 64, 17, 0)
head += socket.inet_aton(source) + socket.inet_aton("127.0.0.1")
total = sum(struct.unpack("!10H", head))
total = (total & 0xFFFF) + (total >> 16)
head = head[:10] + struct.pack("!H", ~total & 0xFFFF) + head[12:]
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
raw.bind(("eth0", 0))
own = raw.getsockname()[4]
raw.send(bytes.fromhex(mac.replace(":", "")) + own + bytes([8, 0]) + head + datagram)
"""


def test_loopback_of_the_host_stays_its_own(daemon: RunningDaemon) -> None:
    """route_localnet lets the host out by 127.0.0.1, and no container in (CVE-2020-8558)."""
    daemon.run("run", "-d", "--name", "web", "-P", "--expose", "80", "busybox", "sleep", "999")
    about = settings(daemon, "web")["NetworkSettings"]
    mac = Path(f"/sys/class/net/{daemon.bridge}/address").read_text().strip()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as private:
        private.bind(("127.0.0.1", 0))
        private.settimeout(0.2)
        knock = [
            "nsenter", f"--net={about['SandboxKey']}", sys.executable, "-c", SEND_TO_LOOPBACK,
            mac, about["IPAddress"], str(private.getsockname()[1]),
        ]  # fmt: skip
        subprocess.run(knock, check=True)
        with pytest.raises(TimeoutError):
            private.recv(9)
        # Without the rules it does arrive: the attack is one.
        subprocess.run(
            ["/usr/sbin/nft", "flush", "chain", "ip", daemon.bridge, "loopback"], check=True
        )
        subprocess.run(knock, check=True)
        assert private.recv(9) == b"knoc"
    daemon.run("rm", "-f", "web")
