"""``--network-rate``: how it is written, and for whom it cannot hold."""

from __future__ import annotations

import pytest

from aruntime.container.config import ContainerConfig
from aruntime.daemon.commands.run_rate import check_network_rate, parse_network_rate
from aruntime.errors import InvalidParameter


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("0", 0), ("8000bit", 8000), ("8kbit", 8000), ("1.5mbit", 1_500_000),
        ("100Mbit", 100_000_000), ("10gbit", 10_000_000_000), ("100gbit", 100_000_000_000),
    ],
)  # fmt: skip
def test_rates(text: str, bits: int) -> None:
    """Decimal units of bits, in any case."""
    assert parse_network_rate(text) == bits


@pytest.mark.parametrize(
    "text",
    ["", "1", "100", "10m", "10mbps", "10 mbit", "-1mbit", "1e3bit", "mbit", ".5mbit", "٣mbit"],
)
def test_no_rates(text: str) -> None:
    """A number without unit, bytes, signs: nobody can tell what was meant."""
    with pytest.raises(ValueError, match="invalid rate"):
        parse_network_rate(text)


@pytest.mark.parametrize("text", ["7999bit", "0bit", "101gbit", f"{'9' * 400}gbit"])
def test_rates_out_of_range(text: str) -> None:
    """The error says the range."""
    with pytest.raises(ValueError, match="8kbit to 100gbit"):
        parse_network_rate(text)


def config(**fields: object) -> ContainerConfig:
    """Return a configuration."""
    known: dict[str, object] = {
        "id": "1", "name": "n", "created_ns": 0, "image": "i", "image_id": "", "args": ["x"],
        "hostname": "h", **fields,
    }  # fmt: skip
    return ContainerConfig(**known)  # type: ignore[arg-type]  # fields by name


@pytest.mark.parametrize("mode", ["host", "none", "container:other"])
def test_a_link_of_its_own_is_needed(mode: str) -> None:
    """And named in the error."""
    with pytest.raises(InvalidParameter, match=f"not with --network {mode}"):
        check_network_rate(config(network_mode=mode), 8000)
    check_network_rate(config(network_mode=mode), 0)


@pytest.mark.parametrize(
    "fields", [{"privileged": True}, {"cap_add": ["net_admin"]}, {"cap_add": ["CAP_NET_ADMIN"]},
               {"cap_add": ["SYS_TIME", "all"]}],
)  # fmt: skip
def test_who_could_lift_it_is_refused(fields: dict[str, object]) -> None:
    """A limit that does not hold is none."""
    with pytest.raises(InvalidParameter, match="CAP_NET_ADMIN"):
        check_network_rate(config(**fields), 8000)
    check_network_rate(config(cap_add=["NET_RAW"]), 8000)
