"""Names in users' networks, asked by the resolvers of real containers, and the files of names."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.harness import RunningDaemon

pytestmark = pytest.mark.e2e

ADDRESS = '{{(index .NetworkSettings.Networks "%s").IPAddress}}'
GATEWAY = '{{(index .NetworkSettings.Networks "%s").Gateway}}'
DNS_SERVER = r"""
use IO::Socket::INET;
my $server = IO::Socket::INET->new(LocalPort => 53, Proto => "udp") or die "bind: $!";
open(my $ready, ">", "/ready");
while ($server->recv(my $query, 512)) {
    my $question = substr($query, 12, index($query, "\0", 12) + 5 - 12);
    $server->send(substr($query, 0, 2) . "\x81\x80\0\1\0\1\0\0\0\0" . $question
        . "\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\xc0\0\2\7");
}
"""
"""Answers every question with 192.0.2.7."""


@pytest.fixture
def shop(shared_daemon: RunningDaemon) -> Iterator[RunningDaemon]:
    """Yield a daemon with a network that has IPv6, in which a container is called db."""
    daemon = shared_daemon
    daemon.run("network", "create", "--ipv6", "shop")
    daemon.run(
        "run", "-d", "--name", "db", "--network", "shop", "--network-alias", "store",
        "busybox", "sleep", "999",
    )  # fmt: skip
    yield daemon
    daemon.run("rm", "-f", *daemon.container_ids(), code=None)
    daemon.run("network", "rm", "shop")


def address(daemon: RunningDaemon, name: str, network: str = "shop") -> str:
    """Return where a container stands."""
    return daemon.out("inspect", "-f", ADDRESS % network, name)


def test_containers_find_each_other_by_name(shop: RunningDaemon) -> None:
    """Through /etc/resolv.conf and the C library's resolver, as programs do it."""
    flags = ("run", "--rm", "--network", "shop", "busybox")

    for name in ("db", "store", "db.shop"):
        shop.run(*flags, "ping", "-c", "1", "-W", "5", name)
    found = shop.out(*flags, "nslookup", "db")
    assert address(shop, "db") in found.split()
    resolv_conf = shop.out(*flags, "cat", "/etc/resolv.conf").splitlines()
    gateway = shop.out("inspect", "-f", GATEWAY % "shop", "db")
    assert resolv_conf[0] == f"nameserver {gateway}"
    assert any("ndots:0" in line for line in resolv_conf if line.startswith("options "))


def test_getent_of_the_c_library(shop: RunningDaemon, debian_daemon: RunningDaemon) -> None:
    """glibc's own resolver gets both kinds of addresses, and the name of an address."""
    flags = ("run", "--rm", "--network", "shop", "debian", "getent")

    lines = shop.out(*flags, "ahosts", "db").splitlines()
    assert {line.split()[0] for line in lines} >= {address(shop, "db")}
    assert any(":" in line.split()[0] for line in lines)
    assert shop.out(*flags, "hosts", address(shop, "db")).split()[1] == "db.shop"


def test_names_follow_renaming_and_a_killed_daemon(daemon: RunningDaemon) -> None:
    """A new name counts at once; the next daemon knows them all again."""
    ask = ("ping", "-c", "1", "-W", "5")
    daemon.run("network", "create", "shop")
    for name, alias in (("db", "store"), ("web", "www")):
        daemon.run(
            "run", "-d", "--name", name, "--network", "shop", "--network-alias", alias,
            "busybox", "sleep", "999",
        )  # fmt: skip
    daemon.run("rename", "db", "database")
    daemon.run("exec", "web", *ask, "database")
    assert daemon.run("exec", "web", "nslookup", "db.shop", code=None).returncode != 0
    daemon.kill()
    daemon.start()

    daemon.run("exec", "web", *ask, "database")
    daemon.run("exec", "web", *ask, "store")
    daemon.run("exec", "database", *ask, "web")


def test_other_names_are_asked_of_the_server_given(
    shop: RunningDaemon, debian_daemon: RunningDaemon
) -> None:
    """--dns names a server, in a container here; our names are ours all the same."""
    shop.run("run", "-d", "--name", "ns", "--network", "shop", "debian", "perl", "-e", DNS_SERVER)
    shop.run("exec", "ns", "sh", "-c", "until test -e /ready; do sleep 0.01; done")
    flags = ("run", "--rm", "--network", "shop", "--dns", address(shop, "ns"), "busybox")

    assert "192.0.2.7" in shop.out(*flags, "nslookup", "-type=a", "example.org").split()
    assert address(shop, "db") in shop.out(*flags, "nslookup", "-type=a", "db").split()


def test_an_internal_network_lets_no_names_out(shop: RunningDaemon) -> None:
    """Its containers find each other; anything else is refused at once."""
    shop.run("network", "create", "--internal", "vault")
    try:
        shop.run("run", "-d", "--name", "safe", "--network", "vault", "busybox", "sleep", "999")
        flags = ("run", "--rm", "--network", "vault", "busybox")
        shop.run(*flags, "ping", "-c", "1", "-W", "5", "safe")
        refused = shop.run(*flags, "nslookup", "-type=a", "example.org", code=None)
        assert "REFUSED" in refused.stdout + refused.stderr
        nobody = shop.run(*flags, "nslookup", "-type=a", "nobody", code=None)
        assert "NXDOMAIN" in nobody.stdout + nobody.stderr
    finally:
        shop.run("rm", "-f", "safe")
        shop.run("network", "rm", "vault")


def test_the_default_network_has_no_names(shop: RunningDaemon) -> None:
    """Its containers keep the host's servers (docker's rule)."""
    shop.run("run", "-d", "--name", "lone", "busybox", "sleep", "999")

    assert "ndots:0" not in shop.out("exec", "lone", "cat", "/etc/resolv.conf")
    gateway = shop.out("inspect", "-f", "{{.NetworkSettings.Gateway}}", "lone")
    assert gateway not in shop.out("exec", "lone", "cat", "/etc/resolv.conf")


def test_names_follow_connections(shop: RunningDaemon) -> None:
    """A running container that is connected finds names, and no more once it is disconnected."""
    shop.run("run", "-d", "--name", "lone", "busybox", "sleep", "999")
    files = ("exec", "lone", "cat", "/etc/hosts", "/etc/resolv.conf")
    before = shop.out(*files)
    shop.run("network", "connect", "--alias", "guest", "shop", "lone")
    shop.run("exec", "lone", "ping", "-c", "1", "-W", "5", "store")
    shop.run("exec", "db", "ping", "-c", "1", "-W", "5", "guest")
    assert f"{address(shop, 'lone')}\t" in shop.out(*files)

    shop.run("network", "disconnect", "shop", "lone")
    assert shop.out(*files) == before
    assert shop.run("exec", "db", "nslookup", "guest", code=None).returncode != 0
    shop.run("exec", "lone", "sh", "-c", "echo '# mine' >>/etc/hosts")
    shop.run("network", "connect", "shop", "lone")
    assert shop.out("exec", "lone", "tail", "-n", "1", "/etc/hosts") == "# mine"
    shop.run("exec", "lone", "ping", "-c", "1", "-W", "5", "db")


def test_files_of_names(shop: RunningDaemon) -> None:
    """Own addresses, added hosts, host-gateway, and the flags of resolv.conf."""
    flags = (
        "run", "--rm", "--network", "shop", "--hostname", "web.example.org",
        "--add-host", "box:host-gateway", "--add-host", "six:2001:db8::1",
        "--dns-search", "corp.example", "--dns-option", "timeout:1",
        "busybox", "sh", "-c",
    )  # fmt: skip
    script = (
        "cat /etc/hosts; echo --; cat /etc/resolv.conf; echo --; hostname -i; cat /etc/hostname"
    )
    hosts, resolv_conf, own = shop.out(*flags, script).split("--\n")
    gateway = shop.out("run", "--rm", "busybox", "ip", "route", "show", "default").split()[2]

    lines = [line.split() for line in hosts.splitlines()]
    assert [gateway, "box"] in lines
    assert ["2001:db8::1", "six"] in lines
    own_lines = [line for line in lines if line[1:] == ["web.example.org", "web"]]
    assert len(own_lines) == 2
    assert own.split()[-1] == "web.example.org"
    assert own_lines[0][0] in own.split()
    assert resolv_conf.splitlines()[1:3] == ["search corp.example", "options timeout:1 ndots:0"]
