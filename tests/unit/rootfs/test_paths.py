"""Paths of specifications in normal form."""

from __future__ import annotations

import pytest

from aruntime.errors import InvalidSpec
from aruntime.rootfs import paths


@pytest.mark.parametrize(
    ("path", "normal"),
    [("/a/b", "/a/b"), ("a", "/a"), ("//a//b/", "/a/b"), ("/a/../../b/.", "/b")],
)
def test_normal_path(path: str, normal: str) -> None:
    """One spelling for each destination."""
    assert paths.normal_path(path) == normal


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
        ("net/ipv4/ip_forward", "net/ipv4/ip_forward"),
        ("net.ipv4.conf.eth0/100.forwarding", "net/ipv4/conf/eth0.100/forwarding"),
        ("net/ipv4/conf/eth0.100/forwarding", "net/ipv4/conf/eth0.100/forwarding"),
        ("kernel", "kernel"),
    ],
)
def test_sysctl_path(name: str, path: str) -> None:
    """Dots and slashes change places when a dot comes first, as sysctl(8) has it."""
    assert paths.sysctl_path(name) == path


@pytest.mark.parametrize(
    "name", ["", "net..x", ".net", "net/../../sys/x", "net.x.", "a\0b", "../x"]
)
def test_hostile_sysctl(name: str) -> None:
    """Nothing outside of /proc/sys can be named."""
    with pytest.raises(InvalidSpec, match="no kernel parameter"):
        paths.sysctl_path(name)
