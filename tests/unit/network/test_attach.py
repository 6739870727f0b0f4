"""What a network refuses before it touches anything, and the parts that need no root."""

from __future__ import annotations

from pathlib import Path

import pytest

from aruntime.errors import InvalidParameter, Unavailable
from aruntime.network import bridge, nft
from tests.networks import bridge_network


@pytest.mark.parametrize("name", ["", "0br", "br0;flush", "sixteen-letters0", "br 0", "brü"])
def test_unusable_bridge_names(tmp_path: Path, name: str) -> None:
    """A name that nft or the kernel would misread is refused, and no directory is made for it."""
    with pytest.raises(InvalidParameter, match="bridge name"):
        bridge_network(name, "10.0.0.0/24", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("subnet", "reason"),
    [
        ("10.0.0.1/24", "has host bits set"),
        ("10.0.0.0/31", "is too small"),
        ("fd00::/64", "cannot be used"),
        ("lan", "cannot be used"),
    ],
)
def test_unusable_subnets(tmp_path: Path, subnet: str, reason: str) -> None:
    """The error says what is wrong with the subnet."""
    with pytest.raises(InvalidParameter, match=reason):
        bridge_network("br0", subnet, tmp_path)


def test_gateway_is_the_first_address(tmp_path: Path) -> None:
    """The bridge's own address, with the prefix of the subnet."""
    assert str(bridge_network("br0", "172.29.0.0/16", tmp_path).gateway) == "172.29.0.1/16"


def test_lookup_after_a_restart(tmp_path: Path) -> None:
    """A network opened on the leases of another knows where its containers stand."""
    directory = tmp_path / "networks/br0/leases"
    directory.mkdir(parents=True)
    (directory / "10.0.0.7").symlink_to("abc ar1234567")

    endpoint = bridge_network("br0", "10.0.0.0/24", tmp_path).lookup("abc")

    assert endpoint is not None
    assert (endpoint.ip, endpoint.prefix, endpoint.gateway) == ("10.0.0.7", 24, "10.0.0.1")
    assert (endpoint.mac, endpoint.host_ifname) == ("02:42:0a:00:00:07", "ar1234567")


def test_missing_nft_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the program the error says what to install."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(nft, "SEARCH_PATH", "")

    with pytest.raises(Unavailable, match="apt-get install nftables"):
        nft.run("")


def test_room_for_neighbours_is_made_once(tmp_path: Path) -> None:
    """What is less than a crowd needs is raised, and said; what is more is left alone."""
    place = tmp_path / "ipv4/neigh/default"
    place.mkdir(parents=True)
    for number, value in ((1, "128"), (2, "512"), (3, "50000")):
        (place / f"gc_thresh{number}").write_text(f"{value}\n")

    changes = bridge.ensure_neighbours([4, 6], tmp_path)

    assert [change.partition(":")[0] for change in changes] == [
        "set net.ipv4.neigh.default.gc_thresh2 to 8192",
        "set net.ipv4.neigh.default.gc_thresh1 to 2048",
    ]
    values = [(place / f"gc_thresh{number}").read_text() for number in (1, 2, 3)]
    assert values == ["2048\n", "8192\n", "50000\n"]
    assert bridge.ensure_neighbours([4, 6], tmp_path) == []


def test_forwarding_is_set_once(tmp_path: Path) -> None:
    """It is switched on when off, said so, and left alone when on."""
    setting = tmp_path / "ip_forward"
    setting.write_text("0\n")

    assert bridge.ensure_forwarding(setting) == ["set net.ipv4.ip_forward to 1"]
    assert setting.read_text() == "1\n"
    assert bridge.ensure_forwarding(setting) == []
