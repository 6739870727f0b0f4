"""Questions for names at a port of the gateway that another program has: led to one of ours.

A DNS server of the host that listens everywhere has port 53 of every gateway too. A table per
network, BRIDGE-names of family ip, leads what comes in by the bridge past it; it is there only
where it is needed.

Out of scope: who listens (aruntime.daemon.resolver).
"""

from __future__ import annotations

from aruntime.network.nfnetlink import Table

SUFFIX = "-names"
DNS_PORT = 53


def table_of(bridge: str) -> Table:
    """Return what names the table of a bridge."""
    return Table("ip", f"{bridge}{SUFFIX}")


def ruleset(bridge: str, gateway: str, port: int) -> str:
    """Return the statements that make the table or change its port, in nft's language."""
    table = f"ip {bridge}{SUFFIX}"
    asked = f'iifname "{bridge}" ip daddr {gateway}'
    lines = [
        f"add table {table}",
        f"add chain {table} arrive {{ type nat hook prerouting priority dstnat; policy accept; }}",
        f"flush chain {table} arrive",
        *(
            f"add rule {table} arrive {asked} {protocol} dport {DNS_PORT} redirect to :{port}"
            for protocol in ("udp", "tcp")
        ),
    ]
    return "".join(f"{line}\n" for line in lines)


def removal(bridge: str) -> str:
    """Return the statements that remove the table, there or not."""
    # `add` first: deleting a table that is not there would fail.
    return f"add table ip {bridge}{SUFFIX}\ndelete table ip {bridge}{SUFFIX}\n"
