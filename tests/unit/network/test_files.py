"""/etc/hosts, /etc/hostname and /etc/resolv.conf of a container."""

from __future__ import annotations

from pathlib import Path

import pytest

from aruntime.errors import InvalidParameter
from aruntime.network import files

HOST = """\
# made by hand
search example.org lan
nameserver 127.0.0.1
nameserver 192.0.2.53
nameserver ::1
nameserver 2001:db8::53
nameserver nonsense
nameserver
options edns0
; options ndots:9
options timeout:1
sortlist 192.0.2.0
"""


def test_hosts_of_a_container_with_an_address() -> None:
    """Local names first, then added hosts, then the container's own name."""
    text = files.hosts(
        "web",
        addresses=["172.29.0.2"],
        extra_hosts=["db:10.0.0.9", "six:2001:db8::1", "box:host-gateway"],
        host_gateway="172.29.0.1",
    )

    assert text == (
        "127.0.0.1\tlocalhost\n"
        "::1\tlocalhost ip6-localhost ip6-loopback\n"
        "fe00::\tip6-localnet\n"
        "ff00::\tip6-mcastprefix\n"
        "ff02::1\tip6-allnodes\n"
        "ff02::2\tip6-allrouters\n"
        "10.0.0.9\tdb\n"
        "2001:db8::1\tsix\n"
        "172.29.0.1\tbox\n"
        "172.29.0.2\tweb\n"
    )


@pytest.mark.parametrize(
    ("hostname", "domainname", "names"),
    [
        ("web", "", "web"),
        ("web", "example.org", "web.example.org web"),
        ("web.example.org", "", "web.example.org web"),
    ],
)
def test_own_name_is_qualified_and_bare(hostname: str, domainname: str, names: str) -> None:
    """The qualified name comes first, however it was given, and the bare one beside it."""
    text = files.hosts(hostname, domainname=domainname, addresses=["10.0.0.2"])

    assert text.splitlines()[-1] == f"10.0.0.2\t{names}"


def test_own_name_at_every_address() -> None:
    """A container in several networks finds itself in each, and by IPv6."""
    addresses = ["10.0.0.2", "fd00::2", "10.1.0.2"]
    text = files.hosts("web", addresses=addresses)

    assert text == files.LOCAL_HOSTS + "".join(f"{address}\tweb\n" for address in addresses)


def test_hosts_without_network() -> None:
    """Without an address of its own the container has the local names only."""
    assert files.hosts("web") == files.LOCAL_HOSTS


def test_hosts_on_the_host_network(tmp_path: Path) -> None:
    """The host's own file, byte for byte; with extra hosts the local names and those."""
    assert files.host_hosts(tmp_path) == ""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/hosts").write_bytes(b"127.0.0.1 localhost box # caf\xe9\n")
    host_text = files.host_hosts(tmp_path)

    kept = files.hosts("box", host_text=host_text).encode("utf-8", "surrogateescape")
    assert kept == (tmp_path / "etc/hosts").read_bytes()
    text = files.hosts("box", host_text=host_text, extra_hosts=["db:10.0.0.9"])
    assert text == files.LOCAL_HOSTS + "10.0.0.9\tdb\n"


@pytest.mark.parametrize("entry", ["box:host-gateway", "box", "box:", ":10.0.0.1", "box:lan"])
def test_wrong_extra_host(entry: str) -> None:
    """A malformed one, or host-gateway where there is none, is named in the error."""
    with pytest.raises(InvalidParameter, match=f"--add-host {entry}: "):
        files.hosts("web", extra_hosts=[entry])


def test_hostname_file() -> None:
    """One line."""
    assert files.hostname_file("web") == "web\n"


def test_resolv_conf_keeps_what_a_container_can_reach() -> None:
    """Loopback, IPv6 and malformed servers go; search, options and other directives stay."""
    assert files.resolv_conf(HOST) == (
        "nameserver 192.0.2.53\n"
        "search example.org lan\n"
        "options edns0 timeout:1\n"
        "sortlist 192.0.2.0\n"
    )


@pytest.mark.parametrize("host", ["", "nameserver 127.0.0.53\n", "nameserver fe80::1%eth0\n"])
def test_resolv_conf_falls_back(host: str) -> None:
    """A host that names no reachable server leaves the documented default."""
    assert files.resolv_conf(host) == "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"


def test_resolv_conf_overrides() -> None:
    """--dns, --dns-search and --dns-option each replace their part, loopback included."""
    text = files.resolv_conf(
        HOST, dns=["127.0.0.1", "::1"], search=["corp.example"], options=["ndots:2"]
    )

    assert text == (
        "nameserver 127.0.0.1\n"
        "nameserver ::1\n"
        "search corp.example\n"
        "options ndots:2\n"
        "sortlist 192.0.2.0\n"
    )


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ([], "edns0 timeout:1 ndots:0"),
        (["ndots:3"], "ndots:3"),
        (["timeout:9"], "timeout:9 ndots:0"),
    ],
)
def test_resolv_conf_in_a_users_network(options: list[str], shown: str) -> None:
    """Our resolver alone; names without dots go to it as they are, unless options say otherwise."""
    text = files.resolv_conf(HOST, resolver="10.1.0.1", dns=["192.0.2.9"], options=options)

    assert text == (
        f"nameserver 10.1.0.1\nsearch example.org lan\noptions {shown}\nsortlist 192.0.2.0\n"
    )


def test_a_server_inside_stands_behind_the_resolver() -> None:
    """A loopback address of --dns is the container's own, which we cannot ask."""
    text = files.resolv_conf("", resolver="10.1.0.1", dns=["192.0.2.9", "127.0.0.1"])

    assert text == "nameserver 10.1.0.1\nnameserver 127.0.0.1\noptions ndots:0\n"


def test_host_servers(tmp_path: Path) -> None:
    """All of them, a stub on the loopback too; none without a file."""
    assert files.host_servers(tmp_path) == []
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/resolv.conf").write_text(HOST)

    servers = ["127.0.0.1", "192.0.2.53", "::1", "2001:db8::53"]
    assert files.host_servers(tmp_path) == servers


def test_resolv_conf_without_search() -> None:
    """--dns-search . drops the host's search domains."""
    assert "search" not in files.resolv_conf(HOST, search=["."])


def test_resolv_conf_on_the_host_network() -> None:
    """There every server of the host answers."""
    servers = ["127.0.0.1", "192.0.2.53", "::1", "2001:db8::53"]
    text = files.resolv_conf(HOST, host_network=True)

    assert text.splitlines()[:4] == [f"nameserver {server}" for server in servers]


def test_last_search_counts() -> None:
    """Of several search or domain lines the last with a value is used, as resolver(3) does."""
    text = files.resolv_conf("search a b\ndomain c\nsearch\nnameserver 192.0.2.1\n")

    assert text == "nameserver 192.0.2.1\nsearch c\n"


def test_host_resolv_conf(tmp_path: Path) -> None:
    """The stub of systemd-resolved is looked through; a missing file is empty."""
    assert files.host_resolv_conf(tmp_path) == ""

    (tmp_path / "etc").mkdir()
    stub = "nameserver 127.0.0.53\noptions edns0 trust-ad\n"
    (tmp_path / "etc/resolv.conf").write_text(stub)
    assert files.host_resolv_conf(tmp_path) == stub

    upstream = tmp_path / files.RESOLVED_UPSTREAM
    upstream.parent.mkdir(parents=True)
    upstream.write_text("nameserver 192.0.2.53\n")
    assert files.host_resolv_conf(tmp_path) == "nameserver 192.0.2.53\n"

    (tmp_path / "etc/resolv.conf").write_text("nameserver 192.0.2.1\n")
    assert files.host_resolv_conf(tmp_path) == "nameserver 192.0.2.1\n"
