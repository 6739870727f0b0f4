"""``--network-rate``: what a container may send, and what it may receive, per second. Pure.

Ours: docker has none. Units are those of links and of tc(8), decimal and in bits.
"""

from __future__ import annotations

import re
from fractions import Fraction

from aruntime.container.config import ContainerConfig
from aruntime.errors import InvalidParameter

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
LEAST_BITS = 8_000
MOST_BITS = 100 * 10**9
NET_ADMIN = frozenset({"NET_ADMIN", "ALL"})

_RATE = re.compile(r"([0-9]+(?:\.[0-9]+)?)([kmg]?)bit", re.IGNORECASE)


def parse_network_rate(text: str) -> int:
    """Read a rate as bits per second; 0 is no limit.

    Raises:
        ValueError: it is none, or out of range.
    """
    if text == "0":
        return 0
    found = _RATE.fullmatch(text)
    if found is None:
        raise ValueError(f"invalid rate {text}: use kbit, mbit or gbit per second, like 100mbit")
    bits = int(Fraction(found[1]) * UNITS[found[2].lower()])
    if not LEAST_BITS <= bits <= MOST_BITS:
        raise ValueError(f"rate {text} is out of range: 8kbit to 100gbit, or 0 for no limit")
    return bits


def check_network_rate(config: ContainerConfig, bits: int) -> None:
    """Refuse a limit for whom there is nothing to limit, or who could lift it.

    What a container sends is held back at its own end of the link, where it waits instead of being
    lost; who has CAP_NET_ADMIN could change that.

    Raises:
        InvalidParameter: says why.
    """
    if not bits:
        return
    mode = config.network_mode
    if mode in ("host", "none") or mode.startswith("container:"):
        raise InvalidParameter(
            f"--network-rate needs a link of the container's own: not with --network {mode}"
        )
    added = {name.upper().removeprefix("CAP_") for name in config.cap_add}
    if config.privileged or added & NET_ADMIN:
        raise InvalidParameter(
            "--network-rate cannot hold for a container with CAP_NET_ADMIN, which could lift it: "
            "leave --privileged or --cap-add out"
        )
