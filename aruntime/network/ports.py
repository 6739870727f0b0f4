"""Published ports as records, and the texts in which people write and read them. Pure.

A request is what ``-p`` says and is kept with the container; a published port is what a request
became in one run, with the host's port that was found for it. Words and rules are docker's
(go-connections, nat/nat.go). Out of scope: making them work (publishing).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, ip_address

import msgspec

PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
"""Names and numbers (IANA) of what can be published."""
ANY = "0.0.0.0"
"""Every IPv4 address of the host."""
LAST_PORT = 65535

_RANGE = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")


class PortRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One port of a container to be reached from outside."""

    container_port: int
    protocol: str = "tcp"
    host_ip: str = ""
    """Empty: every IPv4 address of the host."""
    host_port: int = 0
    """0: one that the kernel chooses at each start."""
    host_port_end: int = 0
    """Not 0: the first free port from ``host_port`` to this one."""


class PublishedPort(msgspec.Struct, frozen=True, kw_only=True):
    """One port of a running container as it is reached from outside."""

    protocol: str
    host_ip: str
    host_port: int
    container_port: int


def parse_publish(text: str) -> tuple[PortRequest, ...]:
    """Read ``[[ip:]host:]container[/protocol]``; host and container may be ranges.

    Raises:
        ValueError: with docker's words.
    """
    place, _, protocol = text.partition("/")
    protocol = protocol.lower() or "tcp"
    if protocol not in PROTOCOLS:
        raise ValueError(f"invalid proto: {protocol}; use tcp, udp or sctp")
    rest, _, container = place.rpartition(":")
    address, _, host = rest.rpartition(":")
    if not container:
        raise ValueError(f"no port specified: {text}<empty>")
    first, last = _range(container, "containerPort")
    if not first:
        raise ValueError(f"invalid containerPort: {container}")
    host_first, host_last = _range(host, "hostPort") if host else (0, 0)
    host_ip = _host_ip(address)
    if host and host_last - host_first != last - first:
        if first != last:
            raise ValueError(
                f"invalid ranges specified for container and host Ports: {container} and {host}"
            )
        return (
            PortRequest(
                container_port=first,
                protocol=protocol,
                host_ip=host_ip,
                host_port=host_first,
                host_port_end=host_last,
            ),
        )
    return tuple(
        PortRequest(
            container_port=first + step,
            protocol=protocol,
            host_ip=host_ip,
            host_port=host_first + step if host_first else 0,
        )
        for step in range(last - first + 1)
    )


def parse_expose(text: str) -> tuple[str, ...]:
    """Read ``port[-port][/protocol]`` of ``--expose``: ``80/tcp`` and the like.

    Raises:
        ValueError: it is none.
    """
    place, _, protocol = text.partition("/")
    protocol = protocol.lower() or "tcp"
    if ":" in place:
        raise ValueError(f"invalid port format for --expose: {text}")
    if protocol not in PROTOCOLS:
        raise ValueError(f"invalid proto: {protocol}; use tcp, udp or sctp")
    first, last = _range(place, "port")
    if not first:
        raise ValueError(f"invalid port: {place}")
    return tuple(f"{port}/{protocol}" for port in range(first, last + 1))


def requested_ports(
    published: Iterable[Sequence[PortRequest]], exposed: Sequence[str], *, publish_all: bool
) -> list[PortRequest]:
    """Return what is to be published, each once, in the user's order.

    Args:
        published: the values of ``-p``.
        exposed: ``80/tcp`` and the like, of the image and of ``--expose``.
        publish_all: ``-P``: what is exposed and not published yet gets a port of the kernel's
            choice.
    """
    found = list(dict.fromkeys(request for value in published for request in value))
    if publish_all:
        present = {(request.container_port, request.protocol) for request in found}
        for port, protocol in map(split_port, exposed):
            if (port, protocol) not in present:
                found.append(PortRequest(container_port=port, protocol=protocol))
    return found


def split_port(text: str) -> tuple[int, str]:
    """Return number and protocol of ``80/tcp`` or ``80``.

    Raises:
        ValueError: it is none.
    """
    number, _, protocol = text.partition("/")
    return int(number), protocol or "tcp"


def shown_address(port: PublishedPort) -> str:
    """Return where a port is reached: ``0.0.0.0:8080``."""
    return f"{port.host_ip}:{port.host_port}"


def ports_column(ports: Iterable[PublishedPort], exposed: Iterable[str] = ()) -> str:
    """Return docker's PORTS column: ``0.0.0.0:8000-8002->80-82/tcp, 443/tcp``.

    Args:
        ports: those published.
        exposed: ``443/tcp`` and the like; those that are published are not named again.
    """
    rows = sorted(ports, key=lambda p: (p.protocol, p.host_ip, p.container_port, p.host_port))
    texts = []
    while rows:
        run = [rows.pop(0)]
        while rows and _follows(run[-1], rows[0]):
            run.append(rows.pop(0))
        host = _span(run[0].host_port, run[-1].host_port)
        inside = _span(run[0].container_port, run[-1].container_port)
        texts.append(f"{run[0].host_ip}:{host}->{inside}/{run[0].protocol}")
    published = {(port.container_port, port.protocol) for port in ports}
    rest = sorted(split_port(text) for text in exposed if split_port(text) not in published)
    return ", ".join([*texts, *(f"{port}/{protocol}" for port, protocol in rest)])


def _follows(one: PublishedPort, other: PublishedPort) -> bool:
    return (
        (one.protocol, one.host_ip) == (other.protocol, other.host_ip)
        and other.container_port == one.container_port + 1
        and other.host_port == one.host_port + 1
    )


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _range(text: str, name: str) -> tuple[int, int]:
    found = _RANGE.fullmatch(text)
    if found is None:
        raise ValueError(f"invalid {name}: {text}")
    first, last = int(found[1]), int(found[2] or found[1])
    if last > LAST_PORT or first > last or (found[2] and not first):
        raise ValueError(f"invalid {name}: {text}")
    return first, last


def _host_ip(text: str) -> str:
    """Return an address as the kernel writes it; empty for all of them."""
    if not text or text == ANY:
        return ""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        address = ip_address(bare)
    except ValueError:
        raise ValueError(f"invalid IP address: {text}") from None
    if not isinstance(address, IPv4Address):
        raise ValueError(f"{text}: ports are published at IPv4 addresses only; leave it out")
    return str(address)
