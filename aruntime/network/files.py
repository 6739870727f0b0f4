"""Contents of a container's /etc/hosts, /etc/hostname and /etc/resolv.conf, by docker's rules.

Text in, text out; only :func:`host_resolv_conf`, :func:`host_servers` and :func:`host_hosts` read
the host. Where the
texts are stored and how they get into the container is the caller's. Syntax: hosts(5),
hostname(5), resolv.conf(5).

A container in a user's network asks our resolver, which passes on what it does not know; options
get ``ndots:0`` then, so that a name without dots is first tried as it is. Nameservers of any other
container with a network namespace of its own:

* those of ``--dns``, as they are (127.0.0.1 is then the container's own loopback); otherwise
* those of the host without loopback addresses (they answer on the host only) and without IPv6
  addresses (our bridge has no IPv6); and if none is left
* :data:`DEFAULT_NAMESERVERS`, as docker does.

With ``--network host`` the host's are kept as they are. Search domains and options are the host's
unless given; other directives (``sortlist``) are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from aruntime.errors import InvalidParameter

DEFAULT_NAMESERVERS = ("8.8.8.8", "8.8.4.4")
"""Used when the host names no server that a container could reach; ``--dns`` avoids it."""

HOST_GATEWAY = "host-gateway"
"""The word of ``--add-host`` for the address under which containers reach the host."""

RESOLVED_STUB = "127.0.0.53"
"""Where systemd-resolved listens; its real upstream servers are in RESOLVED_UPSTREAM."""
RESOLVED_UPSTREAM = "run/systemd/resolve/resolv.conf"

LOCAL_HOSTS = """\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""


def hostname_file(hostname: str) -> str:
    """Return the content of /etc/hostname."""
    return f"{hostname}\n"


def hosts(
    hostname: str,
    *,
    domainname: str = "",
    addresses: Sequence[str] = (),
    extra_hosts: Sequence[str] = (),
    host_gateway: str = "",
    host_text: str = "",
) -> str:
    """Return the content of /etc/hosts.

    Args:
        hostname: the container's; may itself be fully qualified.
        domainname: appended to the host name.
        addresses: the container's own, one line each; none without a network of its own.
        extra_hosts: ``--add-host`` as ``name:address``; the address may be ``host-gateway``.
        host_gateway: what ``host-gateway`` stands for, empty if the host cannot be reached.
        host_text: the host's own file, with ``--network host`` only: it is taken as it is unless
            there are extra hosts, which could not override a name in it.

    Raises:
        InvalidParameter: an extra host is malformed, or host-gateway stands for nothing.
    """
    if host_text and not extra_hosts:
        return host_text
    extra = "".join(_extra_host(entry, host_gateway) for entry in extra_hosts)
    qualified = f"{hostname}.{domainname}" if domainname else hostname
    short, dot, _ = qualified.partition(".")
    names = f"{qualified} {short}" if dot else qualified
    own = "".join(f"{address}\t{names}\n" for address in addresses)
    return f"{LOCAL_HOSTS}{extra}{own}"


def resolv_conf(
    host_text: str,
    *,
    resolver: str = "",
    dns: Sequence[str] = (),
    search: Sequence[str] = (),
    options: Sequence[str] = (),
    host_network: bool = False,
) -> str:
    """Return the content of /etc/resolv.conf.

    Args:
        host_text: the host's file (see :func:`host_resolv_conf`).
        resolver: our own resolver's address, empty outside of users' networks. It asks the servers
            of ``dns``; those on the container's loopback it cannot, so they stand behind it.
        dns: ``--dns``, replaces the nameservers.
        search: ``--dns-search``, replaces the search domains; ``.`` alone means none.
        options: ``--dns-option``, replaces the options.
        host_network: the container shares the host's network namespace.
    """
    servers, domains, host_options, other = _parse(host_text)
    options = options or host_options
    if resolver:
        servers = [resolver, *(one for one in dns if ip_address(one).is_loopback)]
        if not any(option.startswith("ndots:") for option in options):
            options = [*options, "ndots:0"]
    elif dns:
        servers = list(dns)
    elif not host_network:
        servers = [server for server in servers if _reachable(server)]
        servers = servers or list(DEFAULT_NAMESERVERS)
    if search:
        domains = [domain for domain in search if domain != "."]
    lines = [f"nameserver {server}" for server in servers]
    if domains:
        lines.append("search " + " ".join(domains))
    if options:
        lines.append("options " + " ".join(options))
    return "".join(f"{line}\n" for line in lines + other)


def host_resolv_conf(root: Path = Path("/")) -> str:
    """Return the host's resolv.conf; behind systemd-resolved's stub, its upstream's.

    A missing file reads as empty, which resolver(3) takes for "no configuration" too.

    Raises:
        OSError: it exists and cannot be read.
    """
    text = _read_if_there(root / "etc/resolv.conf")
    if _parse(text)[0] == [RESOLVED_STUB]:
        return _read_if_there(root / RESOLVED_UPSTREAM) or text
    return text


def host_servers(root: Path = Path("/")) -> list[str]:
    """Return the nameservers that the host itself asks, in order; a stub on its loopback too.

    Raises:
        OSError: the host's resolv.conf exists and cannot be read.
    """
    return _parse(_read_if_there(root / "etc/resolv.conf"))[0]


def host_hosts(root: Path = Path("/")) -> str:
    """Return the host's /etc/hosts, empty if it is missing.

    Raises:
        OSError: it exists and cannot be read.
    """
    return _read_if_there(root / "etc/hosts")


def _read_if_there(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return ""


def _parse(text: str) -> tuple[list[str], list[str], list[str], list[str]]:
    """Return nameservers, search domains, options and the lines of other directives.

    Comments and malformed addresses are dropped; the last ``search`` or ``domain`` counts, options
    accumulate.
    """
    servers: list[str] = []
    domains: list[str] = []
    options: list[str] = []
    other: list[str] = []
    for line in text.splitlines():
        match line.split():
            case []:
                pass
            case [first, *_] if first[0] in "#;":
                pass
            case ["nameserver", server, *_]:
                if _address(server) is not None:
                    servers.append(server)
            case ["search" | "domain", *given]:
                domains = given or domains
            case ["options", *given]:
                options += given
            case ["nameserver"]:
                pass
            case _:
                other.append(line)
    return servers, domains, options, other


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _reachable(server: str) -> bool:
    address = _address(server)
    return isinstance(address, IPv4Address) and not address.is_loopback


def _extra_host(entry: str, host_gateway: str) -> str:
    name, _, address = entry.partition(":")
    if address == HOST_GATEWAY:
        address = host_gateway
        if not address:
            raise InvalidParameter(
                f"--add-host {entry}: {HOST_GATEWAY} needs a network: use --network bridge"
            )
    if not name or _address(address) is None:
        raise InvalidParameter(f"--add-host {entry}: expected NAME:ADDRESS")
    return f"{address}\t{name}\n"
