"""What -p and --expose say, and how published ports are shown."""

from __future__ import annotations

import pytest

from aruntime.network.ports import (
    PortRequest,
    PublishedPort,
    parse_expose,
    parse_publish,
    ports_column,
    requested_ports,
    shown_address,
)


def ask(container: int, host: int = 0, end: int = 0, ip: str = "", proto: str = "tcp") -> object:
    """Return a request."""
    return PortRequest(
        container_port=container, host_port=host, host_port_end=end, host_ip=ip, protocol=proto
    )


def shown(container: int, host: int, ip: str = "0.0.0.0", proto: str = "tcp") -> PublishedPort:
    """Return a published port."""
    return PublishedPort(protocol=proto, host_ip=ip, host_port=host, container_port=container)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("80", [ask(80)]),
        ("8080:80", [ask(80, 8080)]),
        ("8080:80/UDP", [ask(80, 8080, proto="udp")]),
        ("127.0.0.1:8080:80", [ask(80, 8080, ip="127.0.0.1")]),
        ("127.0.0.1::80/sctp", [ask(80, ip="127.0.0.1", proto="sctp")]),
        ("0.0.0.0:1:2", [ask(2, 1)]),
        ("8000-8002:80-82", [ask(80, 8000), ask(81, 8001), ask(82, 8002)]),
        ("80-81", [ask(80), ask(81)]),
        ("8000-8010:80", [ask(80, 8000, 8010)]),
        ("8000-8000:80", [ask(80, 8000)]),
        (":80", [ask(80)]),
        ("0:80", [ask(80)]),
    ],
)
def test_publish_is_read_as_docker_reads_it(text: str, expected: list[object]) -> None:
    """Addresses, ports of either side, ranges of either side, protocols."""
    assert list(parse_publish(text)) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no port specified: <empty>"),
        ("8080:", "no port specified: 8080:<empty>"),
        ("80/icmp", "invalid proto: icmp"),
        ("x:80", "invalid hostPort: x"),
        ("80:x", "invalid containerPort: x"),
        ("0", "invalid containerPort: 0"),
        ("65536:80", "invalid hostPort: 65536"),
        ("9-8:80", "invalid hostPort: 9-8"),
        ("0-5:80", "invalid hostPort: 0-5"),
        ("80-81:90-95", "invalid ranges specified for container and host Ports: 90-95 and 80-81"),
        ("1.2.3:80:80", "invalid IP address: 1.2.3"),
        ("[::1]:80:80", "IPv4 addresses only"),
        ("٨٠", "invalid containerPort"),
    ],
)
def test_a_malformed_port_is_refused(text: str, reason: str) -> None:
    """The reason names the part that is wrong."""
    with pytest.raises(ValueError) as refused:
        parse_publish(text)
    assert reason in str(refused.value)


def test_exposed_ports() -> None:
    """A range is each port of it; host ports have no place."""
    assert parse_expose("80") == ("80/tcp",)
    assert parse_expose("80-82/udp") == ("80/udp", "81/udp", "82/udp")
    for wrong in ("80:80", "x", "80/icmp", "0", "70000"):
        with pytest.raises(ValueError):
            parse_expose(wrong)


def test_publish_all_adds_what_is_exposed_and_not_published() -> None:
    """With -P every exposed port is there once; equal values of -p count once."""
    given = [parse_publish("8080:80"), parse_publish("8080:80")]

    assert requested_ports(given, ["80/tcp", "53/udp"], publish_all=False) == [ask(80, 8080)]
    assert requested_ports(given, ["80/tcp", "53/udp"], publish_all=True) == [
        ask(80, 8080),
        ask(53, proto="udp"),
    ]


def test_the_column_joins_what_is_consecutive() -> None:
    """Runs on both sides are one entry; exposed ports come last, published ones once."""
    ports = [shown(81, 8001), shown(80, 8000), shown(90, 8002), shown(53, 53, proto="udp")]

    assert ports_column(ports, ["80/tcp", "443/tcp"]) == (
        "0.0.0.0:8000-8001->80-81/tcp, 0.0.0.0:8002->90/tcp, 0.0.0.0:53->53/udp, 443/tcp"
    )
    assert ports_column([], []) == ""
    assert shown_address(shown(80, 8000, "127.0.0.1")) == "127.0.0.1:8000"
